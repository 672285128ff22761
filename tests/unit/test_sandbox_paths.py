"""Names of files as callers give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.core.paths import DEPTH_MAX, fault

PARTS = st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1, max_size=20)


@given(st.lists(PARTS.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=5))
def test_plain_names_pass(parts: list[str]) -> None:
    assert fault("/".join(parts)) is None


@pytest.mark.parametrize(
    "path",
    [
        *[
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/..",
            "../a",
            "a/../b",
            ".",
            "a/./b",
            "a//b",
            "a/",
            "a\0b",
            "x" * 256,
        ],
        "é" * 128,
        "a/" * DEPTH_MAX + "a",
        "/".join(["y" * 255] * 5),
    ],
)
def test_names_that_lead_elsewhere_or_nowhere_do_not(path: str) -> None:
    assert fault(path)
