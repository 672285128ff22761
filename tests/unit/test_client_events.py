"""The client's values follow the protos: nothing that a service may say is lost or misread."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from google.protobuf.descriptor import EnumDescriptor
from ollamesh.agent.v1 import agent_service_pb2, run_pb2
from ollamesh.agent.v1.assistant_pb2 import RunConfig, RunLimits
from ollamesh.agent.v1.error_reason_pb2 import ErrorReason
from ollamesh.agent.v1.thread_pb2 import ToolCall
from ollamesh.client import chats, executions, fleet, runs, runs_wire, sessions
from ollamesh.inference.v1 import completion_pb2, fleet_pb2, model_pb2
from ollamesh.sandbox.v1 import execution_pb2, sandbox_service_pb2

Message = completion_pb2.CompletionEvent | run_pb2.RunEvent | execution_pb2.ExecutionEvent

EVENTS: list[tuple[type[Message], Callable[[Message], object]]] = [
    (completion_pb2.CompletionEvent, chats.event_of),  # type: ignore[list-item]
    (run_pb2.RunEvent, runs_wire.event_of),  # type: ignore[list-item]
    (execution_pb2.ExecutionEvent, executions.event_of),  # type: ignore[list-item]
]
KINDS = [
    pytest.param(message, field.name, event_of, id=f"{message.DESCRIPTOR.name}.{field.name}")
    for message, event_of in EVENTS
    for field in message.DESCRIPTOR.oneofs_by_name["event"].fields
]
ENUMS: list[tuple[EnumDescriptor, Mapping[int, str], set[str]]] = [
    (completion_pb2.AnswerSource.DESCRIPTOR, chats.ANSWER_SOURCES, set()),
    # This client sends no tools, so the model cannot stop for one.
    (completion_pb2.FinishReason.DESCRIPTOR, chats.FINISH_REASONS, {"FINISH_REASON_TOOL_CALLS"}),
    (run_pb2.RunStatus.DESCRIPTOR, runs.STATUSES, set()),
    (run_pb2.OutputChannel.DESCRIPTOR, runs.CHANNELS, set()),
    (run_pb2.ApprovalDecision.DESCRIPTOR, runs.DECISIONS, set()),
    (run_pb2.BusyPolicy.DESCRIPTOR, {value: word for word, value in runs.BUSY_POLICIES.items()}, set()),
    (agent_service_pb2.ToolEffect.DESCRIPTOR, runs.EFFECTS, set()),
    (execution_pb2.Outcome.DESCRIPTOR, executions.OUTCOMES, set()),
    (execution_pb2.LimitKind.DESCRIPTOR, executions.LIMITS, set()),
    (execution_pb2.ExecutionState.DESCRIPTOR, executions.STATES, set()),
    (sandbox_service_pb2.SessionState.DESCRIPTOR, sessions.STATES, set()),
    (model_pb2.Capability.DESCRIPTOR, fleet.CAPABILITIES, set()),
    (fleet_pb2.InstanceState.DESCRIPTOR, fleet.STATES, set()),
    (fleet_pb2.BreakerState.DESCRIPTOR, fleet.BREAKERS, set()),
]


@pytest.mark.parametrize(("message", "kind", "event_of"), KINDS)
def test_every_kind_of_event_has_its_class(
    message: type[Message], kind: str, event_of: Callable[[Message], object]
) -> None:
    received = message(sequence=7)
    getattr(received, kind).SetInParent()
    event = event_of(received)
    assert type(event).__name__.lower() == kind.replace("_", "")
    assert getattr(event, "sequence") == 7  # noqa: B009 - Every event has it.


@pytest.mark.parametrize(("message", "event_of"), EVENTS)
def test_a_kind_that_is_newer_than_the_client_is_left_out(
    message: type[Message], event_of: Callable[[Message], object]
) -> None:
    assert event_of(message.FromString(b"\x08\x07\xfa\x06\x00")) is None  # sequence 7, field 111


@pytest.mark.parametrize(("enum", "words", "without"), ENUMS, ids=lambda each: getattr(each, "name", ""))
def test_every_value_of_an_enum_has_its_word(
    enum: EnumDescriptor, words: Mapping[int, str], without: set[str]
) -> None:
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    named = {value.number: value.name for value in enum.values if value.number and value.name not in without}
    assert {number: prefix + word.upper() for number, word in words.items()} == named


def test_an_answer_arrives_whole() -> None:
    message = completion_pb2.CompletionEvent(sequence=9)
    message.finished.reason = completion_pb2.FINISH_REASON_LENGTH
    message.finished.usage.prompt_token_count, message.finished.usage.output_token_count = 11, 22
    for place, name in enumerate(("queue", "load", "prompt", "output", "total"), start=1):
        getattr(message.finished.timings, name).FromMilliseconds(place * 1500)
    assert chats.event_of(message) == chats.Finished(
        sequence=9,
        reason="length",
        prompt_token_count=11,
        output_token_count=22,
        queue_s=1.5,
        load_s=3.0,
        prompt_s=4.5,
        output_s=6.0,
        total_s=7.5,
    )


def test_a_tool_call_arrives_whole() -> None:
    message = run_pb2.RunEvent(sequence=3)
    message.event_time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    message.tool_called.call.CopyFrom(
        ToolCall(tool_call_id="c1", tool_name="run_python", arguments_json="{}")
    )
    assert runs_wire.event_of(message) == runs.ToolCalled(
        sequence=3,
        event_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        tool_call_id="c1",
        tool_name="run_python",
        arguments_json="{}",
    )


def test_a_call_arrives_in_pieces_too() -> None:
    message = run_pb2.RunEvent(sequence=3)
    message.delta.tool_call.index, message.delta.tool_call.tool_name = 1, "run_python"
    message.delta.tool_call.arguments_json = '{"code'
    delta = runs_wire.event_of(message)
    assert isinstance(delta, runs.Delta)
    assert delta.tool_call == runs.ToolCallPiece(index=1, tool_name="run_python", arguments_json='{"code')
    message.delta.ClearField("tool_call")
    assert getattr(runs_wire.event_of(message), "tool_call") is None  # noqa: B009 - It is a Delta.


def test_a_run_says_what_it_waits_for() -> None:
    run = run_pb2.Run(
        run_id="r", status=run_pb2.RUN_STATUS_INTERRUPTED, assistant_id="a", assistant_version=2
    )
    question = run.pending_approvals.add(
        approval_id="q", tool_call_id="c", call_hash=b"h", reason="it may be wrong"
    )
    question.expire_time.FromDatetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    found = runs_wire.run_of(run)
    assert (found.status, found.assistant_id, found.assistant_version) == ("interrupted", "a", 2)
    assert found.pending_approvals == (
        runs.Approval(
            approval_id="q",
            tool_call_id="c",
            call_hash=b"h",
            reason="it may be wrong",
            expire_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        ),
    )


def test_a_failed_run_tells_why() -> None:
    message = run_pb2.RunEvent(sequence=3)
    message.finished.status = run_pb2.RUN_STATUS_FAILED
    message.finished.failure_reason = ErrorReason.ERROR_REASON_MODEL_FAILED
    message.finished.failure_message = "the model is gone"
    finished = runs_wire.event_of(message)
    assert isinstance(finished, runs.Finished)
    assert (finished.status, finished.failure_reason, finished.failure_message, finished.event_time) == (
        "failed",
        "MODEL_FAILED",
        "the model is gone",
        None,
    )


def test_a_reason_that_is_newer_than_the_client_is_its_number() -> None:
    run = run_pb2.Run.FromString(b"\x38\xe7\x07")  # failure_reason 999
    assert runs_wire.run_of(run).failure_reason == "999"


def test_what_is_unset_in_a_configuration_stays_unset() -> None:
    assert runs_wire.config_of(runs.Config()) == RunConfig(limits=RunLimits())
    spec = executions.spec_of("x", b"", {})
    assert spec == execution_pb2.ExecutionSpec(code="x")
    request = chats.request_of("tiny", [chats.Message("user", "hi")], chats.Options(temperature=0))
    assert request.options.HasField("temperature")
    assert not request.options.HasField("seed")
