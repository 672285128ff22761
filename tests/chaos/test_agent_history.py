"""The checker of runs finds what it is there to find: each fault is planted in a history that is right."""

from collections.abc import Callable

import pytest
from ollamesh.agent.v1 import run_pb2 as pb
from ollamesh.agent.v1.run_pb2 import RunEvent
from ollamesh.agent.v1.thread_pb2 import ROLE_ASSISTANT, ROLE_TOOL, ROLE_USER, Message, ToolCall

from tests.chaos.agent_history import History, Watched, Worked, faults

CALL = ToolCall(tool_call_id="call_1_0", tool_name="run_python", arguments_json="{}")


def events_of(began_s: int) -> list[RunEvent]:
    usage = pb.RunUsage(step_count=1, model_call_count=1)
    acted = pb.RunUsage(step_count=1, model_call_count=1, tool_call_count=1)
    total = pb.RunUsage(step_count=2, model_call_count=2, tool_call_count=1)
    told = [
        RunEvent(started=RunEvent.Started(model="tiny")),
        RunEvent(step_started=RunEvent.StepStarted(step=1)),
        RunEvent(delta=RunEvent.Delta(text="See")),
        RunEvent(delta=RunEvent.Delta(text=":")),
        RunEvent(tool_called=RunEvent.ToolCalled(call=CALL)),
        RunEvent(tool_output=RunEvent.ToolOutput(tool_call_id="call_1_0", text="42")),
        RunEvent(tool_returned=RunEvent.ToolReturned(tool_call_id="call_1_0", content="42")),
        RunEvent(step_finished=RunEvent.StepFinished(step=1, usage=acted)),
        RunEvent(step_started=RunEvent.StepStarted(step=2)),
        RunEvent(delta=RunEvent.Delta(text="It is 42.")),
        RunEvent(step_finished=RunEvent.StepFinished(step=2, usage=usage)),
        RunEvent(finished=RunEvent.Finished(status=pb.RUN_STATUS_SUCCEEDED, answer="It is 42.", usage=total)),
    ]
    for number, event in enumerate(told, 1):
        event.sequence = number
        event.event_time.FromMilliseconds(1000 * began_s + number)
    return told


def right() -> History:
    runs, messages, effects = [], [], []
    for number in range(2):
        run_id, events = f"run-{number}", events_of(number)
        run = pb.Run(
            run_id=run_id,
            thread_id="t",
            status=pb.RUN_STATUS_SUCCEEDED,
            last_sequence=len(events),
            usage=events[-1].finished.usage,
        )
        watched = [Watched(events=list(events)), Watched(after=5, events=events[5:]), Watched(after=12)]
        runs.append(Worked(run=run, events=events, watched=watched))
        messages += [
            Message(run_id=run_id, role=ROLE_USER, content="6 * 7?"),
            Message(run_id=run_id, role=ROLE_ASSISTANT, content="See:", tool_calls=[CALL]),
            Message(run_id=run_id, role=ROLE_TOOL, content="42", tool_call_id="call_1_0"),
            Message(run_id=run_id, role=ROLE_ASSISTANT, content="It is 42."),
        ]
        effects.append(f"{run_id}:call_1_0")
    return History(runs=runs, threads={"t": messages}, effects=effects)


def test_what_is_right_has_no_faults() -> None:
    assert faults(right()) == []


def test_a_run_that_was_ended_while_it_waited_may_be_told_meanwhile() -> None:
    history = right()
    usage = pb.RunUsage()
    told = [
        RunEvent(sequence=1, started=RunEvent.Started(model="tiny")),
        RunEvent(sequence=2, finished=RunEvent.Finished(status=pb.RUN_STATUS_CANCELLED, usage=usage)),
    ]
    for event in told:
        event.event_time.FromMilliseconds(5)
    run = pb.Run(run_id="run-2", thread_id="t", status=pb.RUN_STATUS_CANCELLED, last_sequence=2, usage=usage)
    history.runs = [*history.runs, Worked(run=run, events=told)]
    assert faults(history) == []


def _lost_event(history: History) -> None:
    history.runs[0].events = [*history.runs[0].events[:3], *history.runs[0].events[4:]]


def _two_ends(history: History) -> None:
    last = RunEvent()
    last.CopyFrom(history.runs[0].events[-1])
    last.sequence += 1
    history.runs[0].events = [*history.runs[0].events, last]


def _no_end(history: History) -> None:
    history.runs[0].events = history.runs[0].events[:-1]


def _other_status(history: History) -> None:
    history.runs[0].run.status = pb.RUN_STATUS_FAILED


def _other_usage(history: History) -> None:
    history.runs[0].run.usage.output_token_count = 9


def _other_last(history: History) -> None:
    history.runs[0].run.last_sequence = 3


def _seen_otherwise(history: History) -> None:
    seen = history.runs[0].watched[0].events
    seen[3] = RunEvent(sequence=4, delta=RunEvent.Delta(text="other"), event_time=seen[3].event_time)


def _seen_twice(history: History) -> None:
    seen = history.runs[0].watched[1].events
    history.runs[0].watched[1].events = [seen[0], *seen]


def _seen_in_part(history: History) -> None:
    del history.runs[0].watched[1].events[-1]


def _at_the_same_time(history: History) -> None:
    for event in history.runs[1].events:
        event.event_time.FromMilliseconds(3 + event.sequence)
    for watched in history.runs[1].watched:
        watched.events = list(history.runs[1].events[watched.after :])


def _lost_result(history: History) -> None:
    history.threads = {"t": [each for each in history.threads["t"] if each.role != ROLE_TOOL]}


def _lost_answer(history: History) -> None:
    history.threads = {"t": history.threads["t"][:-1]}


def _mixed_messages(history: History) -> None:
    said = history.threads["t"]
    history.threads = {"t": [*said[:3], *said[4:], said[3]]}


def _asked_twice(history: History) -> None:
    said = history.threads["t"]
    history.threads = {"t": [said[0], *said]}


def _empty_message(history: History) -> None:
    said = history.threads["t"]
    history.threads = {"t": [*said, Message(run_id=said[-1].run_id, role=ROLE_ASSISTANT)]}


def _other_result(history: History) -> None:
    history.threads["t"][2].content = "43"


def _done_twice(history: History) -> None:
    history.effects = [*history.effects, history.effects[0]]


def _not_done(history: History) -> None:
    history.effects = history.effects[1:]


def _done_for_nobody(history: History) -> None:
    history.effects = [*history.effects, "run-0:call_2_0"]


PLANTED = [
    value
    for name, value in list(globals().items())
    if name.startswith("_") and callable(value) and not name.startswith("__")
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_each_fault_is_found(plant: Callable[[History], None]) -> None:
    history = right()
    plant(history)
    assert faults(history) != []
