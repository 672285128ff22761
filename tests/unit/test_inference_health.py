"""What is made of failures and silent looks: who gets no work, who is probed, who is started anew."""

from dataclasses import dataclass, field

import pytest

from services.inference.core.breaker import BreakerState
from services.inference.core.catalog import Catalog
from services.inference.core.ledger import InstanceView, Ledger
from services.inference.core.wishes import WishBook
from services.inference.health import SILENT_LOOKS_MAX, Failure, Health

ONE = "gpu-0"
SEEN = InstanceView(name=ONE, slots=4)
SILENT = SEEN.doubted("it does not answer", silent=True)
GONE = SEEN.doubted("it cannot be reached")


@dataclass
class Rig:
    """The health of one instance that has been seen."""

    restarts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.health = Health([ONE], Ledger(), restart=self.restart, wishes=WishBook(Catalog()))
        self.health.observe(SEEN, 0.0, idle=True)

    def restart(self, name: str, reason: str) -> bool:
        assert reason
        self.restarts.append(name)
        return True

    def breaker(self, now_s: float) -> BreakerState:
        return self.health.view(ONE, now_s).breaker

    def probe(self) -> float:
        """Take the next probe as soon as it is due; return when."""
        due_s = self.health.next_probe_s()
        assert due_s is not None
        assert self.health.take_probes(due_s) == [ONE]
        return due_s


def test_one_that_answers_requests_with_errors_is_back_after_one_probe() -> None:
    """The requests may be to blame."""
    rig = Rig()
    for now_s in (0.0, 1.0, 2.0):
        rig.health.failed(ONE, now_s, Failure.ORDINARY)
    assert rig.breaker(2.0) is BreakerState.OPEN
    due_s = rig.probe()
    assert due_s <= 2.0 + 2.0 * 1.2
    rig.health.succeeded(ONE, due_s)
    assert rig.health.view(ONE, due_s).ready
    assert rig.restarts == []


def test_failures_now_and_then_keep_nothing_from_it() -> None:
    rig = Rig()
    for number in range(10):
        rig.health.failed(ONE, number * 61.0, Failure.ORDINARY)
    assert rig.health.view(ONE, 600.0).ready


def test_silence_opens_and_a_probe_decides() -> None:
    rig = Rig()
    rig.health.failed(ONE, 0.0, Failure.SILENT)
    assert rig.breaker(0.0) is BreakerState.OPEN
    assert rig.restarts == [], "it may only be slow"
    rig.health.failed(ONE, rig.probe(), Failure.WEDGED)
    assert rig.restarts == [ONE]


@pytest.mark.parametrize("failure", [Failure.ORDINARY, Failure.SILENT])
def test_a_wedged_one_is_started_anew_whatever_opened_its_breaker(failure: Failure) -> None:
    rig = Rig()
    for _ in range(3):
        rig.health.failed(ONE, 0.0, failure)
    assert rig.breaker(0.0) is BreakerState.OPEN
    rig.health.failed(ONE, 0.1, Failure.WEDGED)
    assert rig.restarts == [ONE]


def test_one_that_answers_no_look_while_idle_is_started_anew() -> None:
    rig = Rig()
    for _ in range(SILENT_LOOKS_MAX - 1):
        rig.health.observe(SILENT, 0.0, idle=True)
    assert rig.restarts == []
    rig.health.observe(SILENT, 0.0, idle=True)
    assert rig.restarts == [ONE]
    rig.health.observe(SILENT, 0.0, idle=True)
    assert rig.restarts == [ONE], "it is given as long again"


@pytest.mark.parametrize(("between", "idle"), [(SEEN, True), (GONE, True), (SILENT, False)])
def test_looks_count_only_in_a_row_and_while_idle(between: InstanceView, *, idle: bool) -> None:
    rig = Rig()
    for _ in range(SILENT_LOOKS_MAX):
        for _ in range(SILENT_LOOKS_MAX - 1):
            rig.health.observe(SILENT, 0.0, idle=True)
        rig.health.doubt(ONE, "it broke a connection", 0.0)
        rig.health.observe(between, 0.0, idle=idle)
    assert rig.restarts == []
