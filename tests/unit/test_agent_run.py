"""However a run goes and ends, what is told of it keeps the grammar, and so does what is said."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ollamesh.agent.v1.run_pb2 import RunEvent

from services.agent.core.budget import Limits, Usage
from services.agent.core.conversation import Message, Role, ToolCall, from_a_question
from services.agent.core.events import (
    ApprovalRequested,
    ApprovalResolved,
    Channel,
    Decision,
    Delta,
    Event,
    Finished,
    Started,
    Status,
    StepFinished,
    StepRestarted,
    StepStarted,
    ToolCalled,
    ToolOutput,
    ToolReturned,
    joined,
)
from services.agent.core.run import CALL_ENDED, CANCELLED, LOST, Answer, Ending, Entries, Run
from services.agent.wire.events import event_from_proto, event_to_proto
from tests.fakes import run_grammar

LIMITS = Limits(step_count=4, model_call_count=4, tool_call_count=5, token_count=1000)
GOOD = Ending(status=Status.SUCCEEDED, answer="done")


def answer(*calls: ToolCall, truncated: bool = False, tokens: int = 1) -> Answer:
    return Answer(calls=calls, prompt_token_count=tokens, output_token_count=1, truncated=truncated)


def call(call_id: str) -> ToolCall:
    return ToolCall(call_id=call_id, name="run_python", arguments_json="{}")


def returned(call_id: str) -> ToolReturned:
    return ToolReturned(call_id=call_id, content="1", failed=False, duration_s=0.1)


def question(call_id: str) -> ApprovalRequested:
    return ApprovalRequested(
        approval_id=uuid5(NAMESPACE_OID, call_id),
        call_id=call_id,
        call_hash=bytes(32),
        reason="",
        expire_time_s=1.0,
    )


def events_of(entries: Iterable[object]) -> list[Event]:
    return [entry for entry in entries if not isinstance(entry, Message)]  # type: ignore[misc]


def messages_of(entries: Iterable[object]) -> list[Message]:
    return [entry for entry in entries if isinstance(entry, Message)]


def told(events: Iterable[Event]) -> list[RunEvent]:
    return [event_to_proto(event, sequence=n, time_s=float(n)) for n, event in enumerate(events, 1)]


class RunMachine(RuleBasedStateMachine):
    """Drives a run as an agent may, and ends it anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Run(model="tiny", limits=LIMITS)
        self.entries: list[object] = []
        self.state = "waiting"
        self.open: list[str] = []
        self.asked: dict[str, ApprovalRequested] = {}
        self.called = 0
        self.now_s = 0.0

    def tell(self, entries: Entries) -> None:
        self.now_s += 1.0
        self.entries += entries

    @precondition(lambda self: self.state == "waiting")
    @rule()
    def begin(self) -> None:
        self.tell(self.run.begin("why?", now_s=self.now_s))
        self.state = "idle"

    @precondition(lambda self: self.state == "idle")
    @rule()
    def ask(self) -> None:
        self.tell(self.run.ask(now_s=self.now_s))
        self.state = "stuck" if self.run.limit else "asked"

    @precondition(lambda self: self.state == "asked")
    @rule(text=st.text(min_size=1, max_size=3), thinking=st.booleans())
    def hear(self, text: str, *, thinking: bool) -> None:
        self.tell(self.run.hear(Delta(thinking=text) if thinking else Delta(text)))

    @precondition(lambda self: self.state == "asked")
    @rule(count=st.integers(0, 3), truncated=st.booleans(), tokens=st.integers(0, 600))
    def answer(self, count: int, *, truncated: bool, tokens: int) -> None:
        calls = tuple(call(f"c{self.called + n}") for n in range(count))
        self.called += count
        self.tell(self.run.answer(answer(*calls, truncated=truncated, tokens=tokens), now_s=self.now_s))
        self.open = [wanted.call_id for wanted in calls]
        self.state = "stuck" if self.run.limit else "acting" if count else "idle"

    @precondition(lambda self: self.state == "acting")
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        call_id = data.draw(st.sampled_from(self.open))
        self.tell(self.run.tool_wrote(call_id, Channel.STDOUT, "x"))

    @precondition(lambda self: self.state == "acting" and self.decided())
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        call_id = data.draw(st.sampled_from(self.decided()))
        self.open.remove(call_id)
        self.asked.pop(call_id, None)
        self.tell(self.run.tool_returned(returned(call_id), now_s=self.now_s))
        self.state = "acting" if self.open else "idle"

    @precondition(lambda self: self.state == "acting" and bool(set(self.open) - set(self.asked)))
    @rule(data=st.data())
    def question(self, data: st.DataObject) -> None:
        call_id = data.draw(st.sampled_from(sorted(set(self.open) - set(self.asked))))
        self.asked[call_id] = question(call_id)
        self.tell(self.run.question(self.asked[call_id], now_s=self.now_s))

    @precondition(lambda self: self.run.questions)
    @rule(data=st.data(), decision=st.sampled_from(Decision))
    def resolve(self, data: st.DataObject, decision: Decision) -> None:
        asked = data.draw(st.sampled_from(self.run.questions))
        resolved = ApprovalResolved(approval_id=asked.approval_id, decision=decision, user_id="ann")
        self.tell(self.run.resolve(resolved, now_s=self.now_s))

    @precondition(lambda self: self.state in {"idle", "asked", "acting"})
    @rule(other=st.booleans())
    def lose(self, *, other: bool) -> None:
        """Another replica goes on, and the model says the same again, or something else."""
        before = self.run
        self.run = self.replayed()
        assert (self.run.used, self.run.limit) == (before.used, before.limit)
        if self.state != "asked":
            return
        assert self.run.ask(now_s=self.now_s) == ()
        so_far = self.heard()
        again = Delta(thinking="?") if other else so_far
        if again != Delta():
            self.tell(self.run.hear(again))

    @precondition(lambda self: self.state == "stuck")
    @rule()
    def rest(self) -> None:
        """A limit was met: the only way on is the end."""

    @invariant()
    def ends_well_from_here(self) -> None:
        """At every moment: the run's own end, and the end that another replica gives it."""
        replayed = self.replayed()
        self.check([*self.entries, *replayed.end(LOST, now_s=self.now_s)])
        assert replayed.used.step_count == self.run.used.step_count

    @invariant()
    def limits_hold(self) -> None:
        used = self.run.used
        assert used.step_count <= LIMITS.step_count
        assert used.tool_call_count <= LIMITS.tool_call_count

    def replayed(self) -> Run:
        told_so_far = [(float(n), event) for n, event in enumerate(events_of(self.entries))]
        return Run.replayed(told_so_far, model="tiny", limits=LIMITS, used=self.run.used)

    def decided(self) -> list[str]:
        """The open calls that wait for nobody."""
        waiting = {asked.call_id for asked in self.run.questions}
        return [call_id for call_id in self.open if call_id not in waiting]

    def heard(self) -> Delta:
        """What watchers have of the open step."""
        text = thinking = ""
        for event in events_of(self.entries):
            match event:
                case StepStarted() | StepRestarted():
                    text = thinking = ""
                case Delta():
                    text, thinking = text + event.text, thinking + event.thinking
        return Delta(text, thinking)

    def teardown(self) -> None:
        self.check([*self.entries, *self.run.end(GOOD, now_s=self.now_s)])

    def check(self, entries: list[object]) -> None:
        """A whole run: its grammar; every call has its result; what was shown is what is said, once."""
        events, messages = events_of(entries), messages_of(entries)
        run_grammar.check(told(events))
        called = [wanted.call_id for message in messages for wanted in message.calls]
        answered = [message.call_id for message in messages if message.role is Role.TOOL]
        assert sorted(called) == sorted(answered)
        assert all(message.content or message.calls for message in messages)
        heard = run_grammar.text_of(told(events))
        said = "".join(message.content for message in messages if message.role is Role.ASSISTANT)
        assert said == heard


TestRun = RunMachine.TestCase
TestRun.settings = settings(max_examples=40)


def begun(limits: Limits = LIMITS) -> Run:
    run = Run(model="tiny", limits=limits)
    run.begin("why?", now_s=0.0)
    return run


def test_an_answer_without_calls_ends_its_step_at_once() -> None:
    run = begun()
    run.ask(now_s=1.0)
    run.hear(Delta("42"))
    said, finished = run.answer(answer(), now_s=3.5)
    assert said == Message(role=Role.ASSISTANT, content="42")
    assert isinstance(finished, StepFinished)
    assert finished.usage.wall_s == 2.5


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (replace(LIMITS, step_count=1), "step_count"),
        (replace(LIMITS, model_call_count=1), "model_call_count"),
        (replace(LIMITS, token_count=2), "token_count"),
    ],
)
def test_the_model_is_not_asked_past_a_limit(limits: Limits, limit: str) -> None:
    run = begun(limits)
    run.ask(now_s=0)
    run.answer(answer(call("c1")), now_s=0)
    run.tool_returned(returned("c1"), now_s=0)
    assert run.limit is None, "what was allowed is not cut short"
    assert run.ask(now_s=0) == ()
    assert run.limit == limit


def test_a_last_answer_within_its_limits_is_an_answer() -> None:
    run = begun(replace(LIMITS, step_count=1, token_count=2))
    run.ask(now_s=0)
    run.answer(answer(), now_s=0)
    assert run.limit is None


def test_as_many_calls_as_allowed_are_made() -> None:
    run = begun(replace(LIMITS, tool_call_count=2))
    run.ask(now_s=0)
    run.answer(answer(call("c1"), call("c2")), now_s=0)
    assert run.limit is None
    assert run.used.tool_call_count == 2


def test_calls_past_their_limit_are_not_made_but_have_results() -> None:
    run = begun(replace(LIMITS, tool_call_count=1))
    run.ask(now_s=0)
    run.answer(answer(call("c1"), call("c2")), now_s=0)
    assert run.limit == "tool_call_count"
    end = run.end(Ending.limited(run.limit), now_s=0)
    returned = [event for event in end if isinstance(event, ToolReturned)]
    assert [(event.call_id, event.content, event.failed) for event in returned] == [
        ("c1", CALL_ENDED, True),
        ("c2", CALL_ENDED, True),
    ]
    assert end[-1] == Finished(
        status=Status.LIMITED,
        usage=run.used,
        reason="LIMIT_REACHED",
        message="the run met its limit tool_call_count",
    )
    assert run.used.tool_call_count == 0


def test_a_cut_off_answer_is_a_limit_and_a_cut_off_call_is_not() -> None:
    run = begun()
    run.ask(now_s=0)
    run.answer(answer(call("c1"), truncated=True), now_s=0)
    assert run.limit is None
    run.tool_returned(returned("c1"), now_s=0)
    run.ask(now_s=0)
    run.answer(answer(truncated=True), now_s=0)
    assert run.limit == "output_token_count_per_call"


def test_a_run_that_never_began_says_nothing_in_its_thread() -> None:
    entries = Run(model="tiny", limits=LIMITS).end(CANCELLED, now_s=5.0)
    assert entries[0] == Started("tiny")
    assert isinstance(entries[1], Finished)
    assert len(entries) == 2


def test_clocks_that_go_back_make_no_negative_times() -> None:
    run = begun()
    run.ask(now_s=100.0)
    end = run.end(CANCELLED, now_s=-100.0)
    assert [event.usage.wall_s for event in end if isinstance(event, StepFinished | Finished)] == [0, 0]


EVENTS = st.one_of(
    st.builds(Delta, st.text(max_size=3), st.text(max_size=3)),
    st.builds(ToolOutput, st.sampled_from(["a", "b"]), st.sampled_from(Channel), st.text(max_size=3)),
    st.builds(StepStarted, st.integers(1, 3)),
)


@given(st.lists(EVENTS))
def test_joining_keeps_every_text_and_all_order(events: list[Event]) -> None:
    def texts(tale: list[Event]) -> dict[object, str]:
        result: dict[object, str] = {}
        for event in tale:
            match event:
                case Delta(text, thinking):
                    result["text"] = result.get("text", "") + text
                    result["thinking"] = result.get("thinking", "") + thinking
                case ToolOutput(call_id, channel, text):
                    result[call_id, channel] = result.get((call_id, channel), "") + text
        return result

    def steps(tale: list[Event]) -> list[Event]:
        return [event for event in tale if isinstance(event, StepStarted)]

    short = joined(events)
    assert texts(short) == texts(events)
    assert steps(short) == steps(events)
    assert joined(short) == short, "no neighbours are left to join"


COUNTS = st.integers(0, 1000)
SECONDS = st.integers(0, 10_000_000).map(lambda value_us: value_us / 1e6)
USAGES = st.builds(
    Usage,
    step_count=COUNTS,
    model_call_count=COUNTS,
    tool_call_count=COUNTS,
    prompt_token_count=COUNTS,
    output_token_count=COUNTS,
    wall_s=SECONDS,
)
ANY_EVENT: Any = st.one_of(
    EVENTS,
    st.builds(Started, st.text(min_size=1)),
    st.builds(ToolCalled, st.builds(ToolCall, call_id=st.text(), name=st.text(), arguments_json=st.text())),
    st.builds(ToolReturned, call_id=st.text(), content=st.text(), failed=st.booleans(), duration_s=SECONDS),
    st.builds(StepFinished, st.integers(1, 9), USAGES),
    st.builds(
        Finished,
        status=st.sampled_from(Status),
        usage=USAGES,
        answer=st.text(),
        reason=st.sampled_from(["", "RUN_LOST", "MODEL_FAILED", "LIMIT_REACHED", "INTERNAL"]),
        message=st.text(),
    ),
)


@given(ANY_EVENT, SECONDS)
def test_an_event_survives_being_stored(event: Event, time_s: float) -> None:
    stored = event_to_proto(event, sequence=7, time_s=time_s).SerializeToString()
    assert event_from_proto(RunEvent.FromString(stored)) == (time_s, event)


@given(st.lists(st.builds(Message, role=st.sampled_from(Role), content=st.text(max_size=1))))
def test_a_history_starts_with_a_question(messages: list[Message]) -> None:
    kept = from_a_question(messages)
    assume(kept)
    assert kept[0].role is Role.USER
    assert list(messages[len(messages) - len(kept) :]) == list(kept)
    assert all(message.role is not Role.USER for message in messages[: len(messages) - len(kept)])
