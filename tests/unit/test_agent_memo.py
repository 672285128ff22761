"""Calls that are not made twice, and those that must be."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.core.memo import CHARS_MAX, RESULTS_MAX, Memo

ARGUMENTS: Mapping[str, object] = {"a": 1, "b": [1, {"c": None}]}


def call(memo: Memo, tool: str, content: str, *, is_pure: bool = True, failed: bool = False) -> None:
    memo.end(memo.begin(tool, ARGUMENTS, is_pure=is_pure), content, failed=failed)


def test_an_equal_call_is_remembered() -> None:
    memo = Memo()
    call(memo, "search", "found")
    assert memo.recall("search", {"b": [1, {"c": None}], "a": 1}) == "found", "in whatever order"
    assert memo.recall("search", {"a": 1}) is None
    assert memo.recall("other", ARGUMENTS) is None


@pytest.mark.parametrize("failed", [False, True])
def test_what_may_have_changed_something_makes_it_forget(failed: bool) -> None:  # noqa: FBT001
    memo = Memo()
    call(memo, "search", "found")
    call(memo, "write", "written", is_pure=False, failed=failed)
    assert memo.recall("search", ARGUMENTS) is None
    assert memo.recall("write", ARGUMENTS) is None


def test_what_failed_is_tried_again() -> None:
    memo = Memo()
    call(memo, "search", "timed out", failed=True)
    assert memo.recall("search", ARGUMENTS) is None


def test_what_ran_beside_a_change_is_not_remembered() -> None:
    for order in ("began before", "ended before"):
        memo = Memo()
        if order == "began before":
            reading, writing = memo.begin("r", {}, is_pure=True), memo.begin("w", {}, is_pure=False)
            memo.end(writing, "", failed=False)
            memo.end(reading, "old", failed=False)
        else:
            writing, reading = memo.begin("w", {}, is_pure=False), memo.begin("r", {}, is_pure=True)
            memo.end(reading, "old", failed=False)
            memo.end(writing, "", failed=False)
        assert memo.recall("r", {}) is None, order


@given(st.lists(st.tuples(st.integers(0, 3 * RESULTS_MAX), st.integers(0, CHARS_MAX + 1)), max_size=200))
def test_its_memory_is_bounded(results: list[tuple[int, int]]) -> None:
    memo = Memo()
    for number, chars in results:
        memo.end(memo.begin("t", {"n": number}, is_pure=True), "x" * chars, failed=False)
    assert len(memo._kept) <= RESULTS_MAX
    assert memo._chars == sum(map(len, memo._kept.values())) <= CHARS_MAX
    if results and results[-1][1] <= CHARS_MAX:
        assert memo.recall("t", {"n": results[-1][0]}) is not None
