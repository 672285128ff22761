"""What is asked once per digest."""

import asyncio

import pytest

from services.inference import descriptions
from services.inference.core.ledger import Card, Model
from services.inference.descriptions import Contexts
from services.inference.errors import NoInstance
from services.inference.ports import Description


def model(name: str) -> Model:
    return Model(
        card=Card(name=name, digest=name.upper()),
        instances=("one",),
        resident_instances=(),
        context_token_count=0,
        need_bytes=0,
        ready=True,
        pinned=False,
    )


class Asked:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.failing: set[str] = set()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, found: Model) -> Description:
        self.names.append(found.card.name)
        await self.may_answer.wait()
        if found.card.name in self.failing:
            raise NoInstance
        return Description(template="", license="", context_token_count_max=8192)


async def test_a_digest_is_asked_about_once() -> None:
    asked = Asked()
    contexts = Contexts(asked)
    for _ in range(2):
        assert await contexts.of([model("a"), model("b")]) == {"A": 8192, "B": 8192}
    assert sorted(asked.names) == ["a", "b"]


async def test_what_nobody_tells_is_asked_for_again() -> None:
    asked = Asked()
    asked.failing = {"a"}
    contexts = Contexts(asked)
    assert await contexts.of([model("a"), model("b")]) == {"A": 0, "B": 8192}
    asked.failing.clear()
    assert await contexts.of([model("a")]) == {"A": 8192}


async def test_a_listing_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "WITHIN_S", 0.01)
    asked = Asked()
    asked.may_answer.clear()
    contexts = Contexts(asked)
    assert await contexts.of([model(str(number)) for number in range(10)]) == {
        str(number): 0 for number in range(10)
    }
    assert len(asked.names) == descriptions.ASKED_AT_ONCE_MAX
    asked.may_answer.set()
    assert await contexts.of([model("1")]) == {"1": 8192}


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "KEPT_MAX", 1)
    asked = Asked()
    contexts = Contexts(asked)
    for name in "aba":
        await contexts.of([model(name)])
    assert asked.names == ["a", "b", "a"]
