"""The supervisor's decisions, checked by a machine that keeps its own books of processes and time."""

from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deploy.local.core.graph import Node
from deploy.local.core.supervision import (
    Decision,
    Interrupt,
    Kill,
    Prepare,
    Start,
    State,
    Supervision,
)
from services.common.restarts import RestartPolicy

POLICY = RestartPolicy(first_delay_s=1.0, longest_delay_s=3.0, restarts_max=2, window_s=100.0)
STORE = Node(name="store")
MIGRATE = Node(name="migrate", after=("store",), one_shot=True)
MODEL = Node(name="model", has_preparation=True)
SERVICE = Node(name="service", after=("migrate",), uses=("model",))
EDGE = Node(name="edge", after=("service",))
GRAPH = (STORE, MIGRATE, MODEL, SERVICE, EDGE)
NEEDED_BY = {
    "store": {"migrate", "service", "edge"},
    "migrate": {"service", "edge"},
    "model": {"service", "edge"},
    "service": {"edge"},
    "edge": set[str](),
}


def states(supervision: Supervision) -> dict[str, State]:
    return {view.name: view.state for view in supervision.views()}


class Machine(RuleBasedStateMachine):
    """Processes that answer, end and ignore requests as they please, in virtual time."""

    @initialize()
    def begin(self) -> None:
        self.supervision = Supervision(GRAPH, POLICY)
        self.now_s = 0.0
        self.preparing: set[str] = set()
        self.living: set[str] = set()  # Processes of the part itself.
        self.answered: set[str] = set()
        self.done: set[str] = set()
        self.prepared: set[str] = set()
        self.starts_s: dict[str, list[float]] = defaultdict(list)
        self.deaths_s: dict[str, list[float]] = defaultdict(list)
        self.interrupted: set[str] = set()
        self.stopped = False
        self.settle()

    def settle(self) -> None:
        while decisions := self.supervision.decide(self.now_s):
            for decision in decisions:
                self.carry_out(decision)
        self.stopped = self.stopped or self.supervision.failure is not None

    def carry_out(self, decision: Decision) -> None:
        node = next(node for node in GRAPH if node.name == decision.name)
        match decision:
            case Prepare(name):
                assert not self.stopped, "I4"
                assert node.has_preparation
                assert name not in self.preparing | self.prepared
                self.preparing.add(name)
            case Start(name):
                assert not self.stopped, "I4"
                assert self.answered | self.done >= set(node.after), "I1"
                assert name not in self.living | self.preparing | self.done, "I1"
                assert name in self.prepared or not node.has_preparation
                self.living.add(name)
                self.starts_s[name].append(self.now_s)
                self.check_restart(name)
            case Interrupt(name):
                assert not NEEDED_BY[name] & (self.living | self.preparing), "I2"
                assert name in (self.living | self.preparing) - self.interrupted
                self.interrupted.add(name)
            case Kill(name):
                self.end(name, well=False)

    def check_restart(self, name: str) -> None:
        deaths_s = [at_s for at_s in self.deaths_s[name] if at_s > self.deaths_s[name][-1] - POLICY.window_s]
        if deaths_s:
            assert len(deaths_s) <= POLICY.restarts_max, "I3"
            delay_s = min(POLICY.first_delay_s * 2 ** (len(deaths_s) - 1), POLICY.longest_delay_s)
            assert self.now_s >= deaths_s[-1] + delay_s, "I3"

    def end(self, name: str, *, well: bool) -> None:
        if name in self.preparing:
            self.preparing.remove(name)
            self.prepared |= {name} if well else set()
        else:
            self.living.remove(name)
            self.answered.discard(name)
            if well and name == "migrate" and not self.stopped:
                self.done.add(name)
            else:
                self.deaths_s[name].append(self.now_s)
        self.supervision.ended(name, self.now_s, well=well, reason="" if well else "it broke")

    @precondition(lambda self: self.living - self.answered - {"migrate"})
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.living - self.answered - {"migrate"})))
        self.supervision.answered(name, self.now_s)
        if states(self.supervision)[name] is State.READY:
            self.answered.add(name)
        self.settle()

    @precondition(lambda self: self.living | self.preparing)
    @rule(data=st.data(), well=st.booleans())
    def exit(self, data: st.DataObject, well: bool) -> None:  # noqa: FBT001
        self.end(data.draw(st.sampled_from(sorted(self.living | self.preparing))), well=well)
        self.settle()

    @rule(for_s=st.sampled_from([0.1, 1.0, 3.0, 50.0, 101.0]))
    def wait(self, for_s: float) -> None:
        end_s = self.now_s + for_s
        while (wake_s := self.supervision.next_wake_s()) is not None and wake_s <= end_s:
            assert wake_s >= self.now_s, "it would be woken for ever"
            self.now_s = wake_s
            self.settle()
        self.now_s = end_s

    @precondition(lambda self: not self.stopped)
    @rule()
    def stop(self) -> None:
        self.stopped = True
        self.supervision.stop()
        self.settle()

    @invariant()
    def reports_what_is(self) -> None:
        up = {name for name, state in states(self.supervision).items() if state in {State.READY, State.DONE}}
        assert up == (self.answered - self.interrupted) | self.done
        assert self.supervision.is_ready == (len(up) == len(GRAPH))
        assert self.supervision.is_over == (self.stopped and not self.living | self.preparing)

    def teardown(self) -> None:
        if not hasattr(self, "supervision"):
            return
        self.stopped = True
        self.supervision.stop()
        self.settle()
        self.wait(sum(node.stop_within_s for node in GRAPH) + 1)
        assert self.supervision.is_over, "I4: nobody answered the interrupts, so everyone was killed"


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


@pytest.fixture
def running() -> Supervision:
    """All of the graph up, at 0 s."""
    supervision = Supervision(GRAPH, POLICY)
    for _ in GRAPH:
        for decision in supervision.decide(0.0):
            match decision:
                case Prepare(name) | Start("migrate" as name):
                    supervision.ended(name, 0.0, well=True)
                case Start(name):
                    supervision.answered(name, 0.0)
    assert supervision.is_ready
    return supervision


def test_parts_start_in_the_order_of_readiness() -> None:
    supervision = Supervision(GRAPH, POLICY)
    assert supervision.decide(0.0) == [Start("store"), Prepare("model")]
    supervision.answered("store", 1.0)
    assert supervision.decide(1.0) == [Start("migrate")]
    supervision.ended("migrate", 2.0, well=True)
    assert supervision.decide(2.0) == [Start("service")], "it uses the model, but need not wait for it"
    supervision.answered("service", 3.0)
    assert supervision.decide(3.0) == [Start("edge")]


def test_a_killed_part_comes_back_and_its_dependants_stay(running: Supervision) -> None:
    running.ended("store", 10.0, well=False, reason="killed")
    assert running.decide(10.0) == []
    assert running.next_wake_s() == 11.0
    assert running.decide(11.0) == [Start("store")]
    assert states(running) == states(running) | {"service": State.READY, "edge": State.READY}
    running.answered("store", 12.0)
    assert running.is_ready


def test_delays_grow_to_a_limit_and_the_budget_ends(running: Supervision) -> None:
    for died_s, delay_s in ((10.0, 1.0), (20.0, 2.0)):
        running.ended("store", died_s, well=False, reason="killed")
        assert running.next_wake_s() == died_s + delay_s
        assert running.decide(died_s + delay_s) == [Start("store")]
    running.ended("store", 30.0, well=False, reason="killed again")
    view = running.views()[0]
    assert (view.state, view.restarts, view.reason) == (State.FAILED, 2, "killed again")
    assert (running.next_wake_s(), running.failure, running.is_over) == (None, None, False), "the others stay"


def test_old_deaths_are_forgotten(running: Supervision) -> None:
    for died_s in (10.0, 200.0, 400.0, 600.0):
        running.ended("store", died_s, well=False, reason="killed")
        assert running.decide(died_s + POLICY.first_delay_s) == [Start("store")]


def test_the_first_failure_stops_a_stack_that_was_never_ready() -> None:
    supervision = Supervision(GRAPH, POLICY)
    supervision.decide(0.0)
    supervision.ended("store", 1.0, well=False, reason="its port is taken")
    assert supervision.failure is not None
    assert (supervision.failure.name, supervision.failure.reason) == ("store", "its port is taken")
    assert supervision.decide(1.0) == [Interrupt("model")]
    supervision.ended("model", 2.0, well=False, reason="interrupted")
    assert supervision.is_over
    assert supervision.failure.name == "store", "the first cause, not its consequence"


def test_a_part_that_never_answers_is_killed_and_said_so() -> None:
    supervision = Supervision((STORE,), POLICY)
    supervision.decide(0.0)
    assert supervision.next_wake_s() == STORE.start_within_s
    assert supervision.decide(STORE.start_within_s) == [Kill("store")]
    supervision.ended("store", STORE.start_within_s, well=False, reason="the last probe was refused")
    assert supervision.failure is not None
    assert supervision.failure.reason == "it was not ready within 60 s; the last probe was refused"


def test_the_time_to_start_does_not_include_waiting_for_what_a_part_uses() -> None:
    supervision = Supervision((MODEL, Node(name="service", uses=("model",))), POLICY)
    supervision.decide(0.0)
    assert supervision.next_wake_s() == MODEL.prepare_within_s, "no deadline for the service yet"
    supervision.ended("model", 600.0, well=True)
    supervision.decide(600.0)
    supervision.answered("model", 700.0)
    assert supervision.next_wake_s() == 700.0 + SERVICE.start_within_s


def test_a_stop_goes_from_the_edge_to_the_stores(running: Supervision) -> None:
    running.stop()
    order = []
    while not running.is_over:
        wave = running.decide(50.0)
        assert wave, "somebody is always told to stop"
        order.append({decision.name for decision in wave})
        for decision in wave:
            assert isinstance(decision, Interrupt)
            running.ended(decision.name, 50.0, well=True)
    assert order == [{"edge"}, {"service"}, {"store", "model"}]


def test_who_ignores_the_interrupt_is_killed(running: Supervision) -> None:
    running.stop()
    assert running.decide(50.0) == [Interrupt("edge")]
    assert running.next_wake_s() == 50.0 + EDGE.stop_within_s
    assert running.decide(50.0 + EDGE.stop_within_s) == [Kill("edge")]
    assert running.next_wake_s() is None, "a kill is not repeated"


@pytest.mark.parametrize(
    "nodes",
    [(EDGE, SERVICE), (STORE, STORE), (Node(name="a", after=("a",)),)],
    ids=["order", "twice", "itself"],
)
def test_a_graph_that_cannot_start_is_a_bug(nodes: tuple[Node, ...]) -> None:
    with pytest.raises(AssertionError, match="listed"):
        Supervision(nodes, POLICY)


def test_a_stop_during_a_backoff_cancels_the_restart(running: Supervision) -> None:
    running.ended("model", 10.0, well=False, reason="killed")
    running.stop()
    assert running.decide(10.0) == [Interrupt("edge")]
    assert states(running)["model"] is State.STOPPED
    assert running.decide(10.0 + POLICY.first_delay_s) == []


def test_a_stop_waits_for_dependants_even_if_a_start_is_overdue() -> None:
    slow = Node(name="slow", start_within_s=5.0)
    supervision = Supervision((slow, Node(name="service", uses=("slow",))), POLICY)
    supervision.decide(0.0)
    supervision.stop()
    assert supervision.decide(4.0) == [Interrupt("service")]
    assert supervision.decide(6.0) == []
    assert supervision.next_wake_s() == 4.0 + SERVICE.stop_within_s, "in the past it would be a busy loop"


def test_who_dies_during_a_stop_is_no_failure() -> None:
    supervision = Supervision((STORE,), POLICY)
    supervision.decide(0.0)
    supervision.stop()
    supervision.ended("store", 1.0, well=False, reason="killed by somebody else")
    assert supervision.failure is None
    assert supervision.is_over


def test_an_answer_that_comes_after_the_kill_is_too_late() -> None:
    supervision = Supervision((STORE,), POLICY)
    supervision.decide(0.0)
    assert supervision.decide(STORE.start_within_s) == [Kill("store")]
    supervision.answered("store", STORE.start_within_s)
    assert not supervision.is_ready
