"""A change that a caller did not hear of is not made twice."""

import pytest

from services.inference import once
from services.inference.errors import ModelNotFound, RequestIdReused
from services.inference.once import Once


class Act:
    def __init__(self, *failures: Exception) -> None:
        self.count = 0
        self._failures = list(failures)

    async def __call__(self) -> None:
        self.count += 1
        if self._failures:
            raise self._failures.pop()


async def test_the_same_request_is_carried_out_once() -> None:
    made, act = Once(), Act()
    for _ in range(3):
        await made.do("me", "1", b"a", act)
    assert act.count == 1
    await made.do("me", "2", b"a", act)
    await made.do("you", "1", b"b", act)
    assert act.count == 3
    with pytest.raises(RequestIdReused):
        await made.do("me", "1", b"b", act)


async def test_without_an_id_and_after_a_failure_it_is_tried_again() -> None:
    made, act = Once(), Act(ModelNotFound())
    with pytest.raises(ModelNotFound):
        await made.do("me", "1", b"a", act)
    await made.do("me", "1", b"a", act)
    for _ in range(2):
        await made.do("me", "", b"a", act)
    assert act.count == 4


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made, act = Once(), Act()
    for number in range(once.KEPT_MAX + 1):
        await made.do("me", str(number + 1), b"a", act)
    await made.do("me", "2", b"a", act)
    assert act.count == once.KEPT_MAX + 1
    await made.do("me", "1", b"a", act)
    assert act.count == once.KEPT_MAX + 2
    monkeypatch.setattr(once, "KEPT_S", 0.0)
    await made.do("me", "1", b"b", act)
    assert act.count == once.KEPT_MAX + 3
