"""Attacks on the sandbox, from within and by killing its parts. See docs/sandbox-attacks.md."""

import pytest

pytest.register_assert_rewrite("tests.sandbox_attacks.place")
