"""Whom the sandbox service runs as, for tests that are the same for both. Apart, because benches do without pytest."""

import os

import pytest

from tests.service.sandbox_app import ORDINARY_UID

AS_ROOT = pytest.param(None, id="as-root", marks=pytest.mark.skipif(os.geteuid() != 0, reason="not root"))
AS_USER = pytest.param(ORDINARY_UID if os.geteuid() == 0 else None, id="as-user")
