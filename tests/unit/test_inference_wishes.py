"""What an operator wants in memory: pinned, loaded, unloaded, and what is refused because it does not fit."""

from dataclasses import replace
from itertools import count
from math import inf

import pytest

from services.inference.core.catalog import KEEP_ALIVE_S_MAX, Catalog, ModelConfig
from services.inference.core.decisions import Cause, Decision, Dispatch, Fail, Load, Unload
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job, Priority
from services.inference.core.ledger import Card, InstanceView, Ledger, Report, Resident, capacity
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.core.wishes import WishBook, Wishes
from services.inference.errors import ModelTooLarge

SIZES = {"a": 4, "b": 4, "c": 3, "big": 9}
GPU = Capacity(instance="gpu", slots=2, models=SIZES, vram_bytes=8)
tickets = count()


class Rig:
    """A scheduler, and what its instances were last seen as."""

    def __init__(self, *seen: Capacity) -> None:
        self.made = Scheduler(Policy(), Estimates())
        self.seen = {each.instance: each for each in seen}
        for each in seen:
            self.made.observe(each, 0.0)

    def wish(self, instance: str = "gpu", now_s: float = 1.0, **wishes: frozenset[str]) -> list[Decision]:
        self.seen[instance] = replace(self.seen[instance], **wishes)  # type: ignore[arg-type]
        self.made.observe(self.seen[instance], now_s)
        return self.made.decide(now_s)

    def ask(self, model: str, now_s: float = 1.0) -> Job:
        job = Job(
            ticket=next(tickets),
            tenant="t",
            model=model,
            priority=Priority.DEFAULT,
            arrived_at_s=now_s,
            expires_at_s=inf,
        )
        self.made.submit(job, now_s)
        return job

    def room_for(self, model: str, *names: str) -> str:
        return self.made.residency.room_for(model, names or list(self.seen), 1.0)


def only(*models: str) -> frozenset[str]:
    return frozenset(models)


# Loading


def test_what_is_wanted_is_loaded_though_nobody_waits() -> None:
    rig = Rig(GPU)
    assert rig.wish(wanted=only("a")) == [Load("gpu", "a", Cause.ASKED)]
    assert rig.wish(wanted=only("a")) == [], "once"
    rig.made.loaded("gpu", "a", ok=True, load_s=1.0, now_s=2.0)
    assert rig.made.residency.is_held("gpu", "a")
    assert rig.wish(now_s=3.0, wanted=only()) == []


def test_idle_models_make_room_for_what_is_wanted() -> None:
    rig = Rig(replace(GPU, loaded={"a": 4, "b": 4}))
    assert rig.wish(wanted=only("c")) == [Unload("gpu", "a")]
    rig.made.unloaded("gpu", "a", 2.0)
    assert rig.made.decide(2.0) == [Load("gpu", "c", Cause.ASKED)]


def test_what_nobody_wants_any_more_is_not_loaded() -> None:
    rig = Rig(replace(GPU, slots=1, loaded={"a": 4, "b": 4}))
    for model in ("a", "b"):
        rig.ask(model)
    running = [each.job.ticket for each in rig.made.decide(1.0) if isinstance(each, Dispatch)]
    assert rig.wish(wanted=only("big")) == []
    assert rig.wish(wanted=only()) == []
    for ticket in running:
        rig.made.end(ticket, None, 2.0)
    assert all(isinstance(each, Dispatch) for each in rig.made.decide(2.0))


# Pinning


def test_what_is_pinned_never_gives_way() -> None:
    other = replace(GPU, instance="other", slots=0)  # It is away, and may come back.
    rig = Rig(replace(GPU, loaded={"a": 4}), other)
    rig.wish(pinned=only("a"))
    rig.ask("big")
    for now_s in (1.0, 100.0, 10_000.0):
        assert rig.made.decide(now_s) == []
    assert rig.wish(now_s=10_001.0, pinned=only()) == [Unload("gpu", "a")]


def test_who_waits_for_what_has_no_room_beside_pins_is_told() -> None:
    rig = Rig(replace(GPU, loaded={"a": 4}))
    rig.wish(pinned=only("a"))
    waiting = rig.ask("big")
    assert rig.made.decide(1.0) == [Fail(waiting)]
    refused = rig.made.residency.crowded_out("big")
    assert refused is not None
    assert refused.facts == {"model": "big", "needed_bytes": "9", "available_bytes": "4"}
    assert rig.made.residency.crowded_out("b") is None
    assert rig.made.residency.crowded_out("a") is None


def test_what_is_pinned_goes_beside_others_that_fit() -> None:
    rig = Rig(replace(GPU, loaded={"a": 4, "c": 3}))
    rig.wish(pinned=only("a"))
    rig.ask("b", 1000.0)
    assert rig.made.decide(1000.0) == [Unload("gpu", "c")]


def test_what_is_pinned_and_lost_is_brought_back() -> None:
    rig = Rig(replace(GPU, loaded={"a": 4}))
    assert rig.wish(pinned=only("a")) == []
    rig.seen["gpu"] = replace(rig.seen["gpu"], loaded={}, asked_at_s=2.0)  # It was started anew.
    assert rig.wish(now_s=2.0) == [Load("gpu", "a", Cause.ASKED)]
    rig.made.loaded("gpu", "a", ok=False, load_s=0.0, now_s=3.0)
    assert rig.made.decide(3.0) == [], "not at once after a failure"
    assert rig.made.decide(100.0) == [Load("gpu", "a", Cause.ASKED)]


def test_a_pin_that_cannot_fit_evicts_nobody() -> None:
    rig = Rig(replace(GPU, loaded={"a": 4}))
    assert rig.wish(pinned=only("big")) == []
    rig = Rig(replace(GPU, loaded={"a": 4, "b": 4}))
    assert rig.wish(pinned=only("a", "b", "c")) == []


# Unloading


def test_what_runs_ends_before_its_model_goes_and_nothing_more_is_sent_there() -> None:
    rig = Rig(replace(GPU, loaded={"a": 4}))
    running = rig.ask("a")
    assert rig.made.decide(1.0) == [Dispatch(running, "gpu")]
    assert rig.wish(unwanted=only("a")) == []
    waiting = rig.ask("a")
    assert rig.made.decide(1.5) == []
    rig.made.end(running.ticket, None, 2.0)
    assert rig.made.decide(2.0) == [Unload("gpu", "a")]
    rig.made.unloaded("gpu", "a", 3.0)
    assert rig.made.decide(3.0) == [], "it is kept out"
    assert rig.wish(now_s=4.0, unwanted=only()) == [Load("gpu", "a", Cause.DEMAND)]
    rig.made.loaded("gpu", "a", ok=True, load_s=1.0, now_s=5.0)
    assert rig.made.decide(5.0) == [Dispatch(waiting, "gpu")]


def test_a_drain_holds_up_no_other_load() -> None:
    rig = Rig(replace(GPU, loaded={"a": 4}))
    running = rig.ask("a")
    rig.made.decide(1.0)
    rig.wish(unwanted=only("a"))
    rig.ask("b")
    assert rig.made.decide(1.0) == [Load("gpu", "b", Cause.DEMAND)]
    rig.made.end(running.ticket, None, 2.0)
    assert rig.made.decide(2.0) == []
    rig.made.loaded("gpu", "b", ok=True, load_s=1.0, now_s=3.0)
    assert Unload("gpu", "a") in rig.made.decide(3.0)


# Where, and what does not fit


def test_a_model_is_loaded_where_it_is_or_where_nobody_must_go() -> None:
    rig = Rig(
        replace(GPU, instance="one", loaded={"a": 4, "b": 4}),
        replace(GPU, instance="two", loaded={"c": 3}),
        replace(GPU, instance="three", loaded={"b": 4}),
    )
    assert rig.room_for("b") == "one"
    assert rig.room_for("b", "three", "two") == "three"
    assert rig.room_for("a", "two", "three") in {"two", "three"}
    assert rig.room_for("c", "one", "three") == "three"


def test_what_fits_nowhere_is_refused_with_what_there_is() -> None:
    rig = Rig(replace(GPU, instance="one"), replace(GPU, instance="two", vram_bytes=6))
    with pytest.raises(ModelTooLarge) as refused:
        rig.room_for("big")
    assert refused.value.facts == {"model": "big", "needed_bytes": "9", "available_bytes": "8"}


def test_what_is_pinned_used_or_waited_for_stays() -> None:
    rig = Rig(replace(GPU, loaded={"a": 4, "b": 4}))
    assert rig.room_for("c") == "gpu"
    rig.wish(pinned=only("a"))
    assert rig.room_for("c") == "gpu", "b may go"
    running = rig.ask("b")
    rig.made.decide(1.0)
    with pytest.raises(ModelTooLarge) as refused:
        rig.room_for("c")
    assert refused.value.facts == {"model": "c", "needed_bytes": "3", "available_bytes": "0"}
    rig.made.end(running.ticket, None, 2.0)
    assert rig.room_for("c") == "gpu"


def test_where_nobody_knows_the_memory_it_is_tried() -> None:
    rig = Rig(replace(GPU, vram_bytes=0, loaded={"a": 4}))
    assert rig.room_for("big") == "gpu"


# The book


def view(*residents: str, cards: tuple[str, ...] = ("a", "b")) -> InstanceView:
    report = Report(
        cards=tuple(Card(name=name, size_bytes=10) for name in cards),
        residents=tuple(Resident(name=name) for name in residents),
    )
    return InstanceView(name="gpu", slots=1, report=report)


def wishes(book: WishBook, seen: InstanceView) -> Wishes:
    return book.of(seen.name, models=seen.cards, residents=seen.residents)


def test_configuration_pins_until_somebody_unpins() -> None:
    book = WishBook(Catalog(models={"a:latest": ModelConfig(pinned=True)}))
    assert wishes(book, view()).pinned == {"a:latest"}
    assert not book.pin("gpu", "a:latest")
    book.unpin("gpu", "a:latest")
    assert wishes(book, view()) == Wishes()
    assert book.pin("gpu", "a:latest")
    assert wishes(book, view()).pinned == {"a:latest"}


def test_wishes_for_what_is_gone_are_forgotten() -> None:
    book = WishBook(Catalog())
    book.pin("gpu", "a:latest")
    book.load("gpu", "b:latest")
    book.unload("gpu", "c:latest")
    loaded = wishes(book, view("c", cards=()))
    assert loaded == Wishes(unloads=frozenset({"c:latest"})), "it is in memory yet"
    assert wishes(book, view()) == Wishes()


def test_the_last_word_counts() -> None:
    book = WishBook(Catalog())
    book.load("gpu", "a:latest")
    book.unload("gpu", "a:latest")
    assert wishes(book, view()) == Wishes(unloads=frozenset({"a:latest"}))
    book.load("gpu", "a:latest")
    assert wishes(book, view()) == Wishes(loads=frozenset({"a:latest"}))


def test_the_scheduler_is_told_and_the_ledger_shows_pins() -> None:
    ledger = Ledger()
    pinned = Wishes(pinned=frozenset({"a:latest"}), loads=frozenset({"b:latest"}))
    seen = replace(view("a"), wishes=pinned)
    ledger.observe(seen)
    told = capacity(seen, Catalog())
    assert (told.pinned, told.wanted, told.unwanted) == (pinned.pinned, pinned.loads, frozenset())
    model = ledger.model("a:latest")
    assert model is not None
    assert (model.pinned, model.need_bytes) == (True, 12)


def test_what_is_pinned_is_kept_alive_whatever_is_asked_for() -> None:
    catalog = Catalog()
    assert catalog.keep_alive_s("a", 60.0, pinned=True) == KEEP_ALIVE_S_MAX
    assert catalog.keep_alive_s("a", 60.0) == 60.0
