"""Threads, messages, runs and their configuration."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ollamesh.agent.v1 import assistant_pb2, run_pb2, thread_pb2
from ollamesh.agent.v1.agent_service_pb2 import Checkpoint as CheckpointPb
from ollamesh.agent.v1.agent_service_pb2 import Tool as ToolPb

from services.agent.assistants import AssistantRecord
from services.agent.core.budget import Limits
from services.agent.core.conversation import Message, Role
from services.agent.core.events import ApprovalRequested
from services.agent.core.pii import PiiAction, PiiKind, PiiRule
from services.agent.core.run_config import RunConfig
from services.agent.ports import MessageRecord, RunRecord, ThreadRecord, ToolSpec
from services.agent.wire.events import call_from_proto, call_to_proto, requested_to_proto, usage_to_proto
from services.agent.wire.values import duration, reason_to_proto, seconds, status_to_proto, timestamp

if TYPE_CHECKING:
    from services.agent.adapters.checkpoints import CheckpointRecord

DEFAULTS = Limits()


def thread_to_proto(thread: ThreadRecord) -> thread_pb2.Thread:
    if thread.is_interrupted:
        state = thread_pb2.THREAD_STATE_INTERRUPTED
    elif thread.active_run_id:
        state = thread_pb2.THREAD_STATE_BUSY
    else:
        state = thread_pb2.THREAD_STATE_ERROR if thread.failed else thread_pb2.THREAD_STATE_IDLE
    return thread_pb2.Thread(
        thread_id=str(thread.thread_id),
        display_name=thread.display_name,
        labels=thread.labels,
        state=state,
        active_run_id=str(thread.active_run_id or ""),
        message_count=thread.message_count,
        create_time=timestamp(thread.create_time),
        update_time=timestamp(thread.update_time),
    )


def message_to_proto(message: Message) -> thread_pb2.Message:
    return thread_pb2.Message(
        role=f"ROLE_{message.role.name}",
        content=message.content,
        tool_calls=map(call_to_proto, message.calls),
        tool_call_id=message.call_id,
        tool_name=message.tool_name,
    )


def message_from_proto(message: thread_pb2.Message) -> Message:
    return Message(
        role=Role[thread_pb2.Role.Name(message.role).removeprefix("ROLE_")],
        content=message.content,
        calls=tuple(map(call_from_proto, message.tool_calls)),
        call_id=message.tool_call_id,
        tool_name=message.tool_name,
    )


def message_record_to_proto(record: MessageRecord) -> thread_pb2.Message:
    message = message_to_proto(record.message)
    message.message_id = str(record.message_id)
    message.run_id = str(record.run_id)
    message.create_time.FromDatetime(record.create_time)
    return message


def run_to_proto(run: RunRecord, *, pending: Iterable[ApprovalRequested] = ()) -> run_pb2.Run:
    """`pending`: what it waits for."""
    outcome = run.outcome
    return run_pb2.Run(
        run_id=str(run.run_id),
        thread_id=str(run.thread_id),
        assistant_id=str(run.assistant_id or ""),
        assistant_version=run.assistant_version,
        config=config_to_proto(run.config),
        status=status_to_proto(run.status),
        failure_reason=reason_to_proto(outcome.reason if outcome else ""),
        failure_message=outcome.message if outcome else "",
        usage=usage_to_proto(outcome.usage if outcome else run.usage),
        create_time=timestamp(run.create_time),
        start_time=timestamp(run.start_time),
        end_time=timestamp(run.end_time),
        last_sequence=run.last_sequence,
        pending_approvals=map(requested_to_proto, pending),
        is_batch=run.is_batch,
    )


def config_to_proto(config: RunConfig) -> assistant_pb2.RunConfig:
    limits = config.limits
    return assistant_pb2.RunConfig(
        model=config.model,
        system_prompt=config.system_prompt,
        tools=config.tools,
        first_tool=config.first_tool,
        temperature=config.temperature,
        seed=config.seed,
        limits=assistant_pb2.RunLimits(
            step_count=limits.step_count,
            model_call_count=limits.model_call_count,
            tool_call_count=limits.tool_call_count,
            wall=duration(limits.wall_s),
            output_token_count_per_call=limits.output_token_count_per_call,
            token_count=limits.token_count,
            approval_wait=duration(limits.approval_wait_s),
        ),
        response_json_schema=config.response_json_schema,
        approval_tools=config.approval_tools,
        pii_rules=map(_rule_to_proto, config.pii_rules),
    )


def _rule_to_proto(rule: PiiRule) -> assistant_pb2.PiiRule:
    return assistant_pb2.PiiRule(kind=f"PII_KIND_{rule.kind.value}", action=f"PII_ACTION_{rule.action.value}")


def _rule_from_proto(rule: assistant_pb2.PiiRule) -> PiiRule:
    kind = assistant_pb2.PiiKind.Name(rule.kind).removeprefix("PII_KIND_")
    action = assistant_pb2.PiiAction.Name(rule.action).removeprefix("PII_ACTION_")
    return PiiRule(PiiKind(kind), PiiAction(action))


def config_from_proto(config: assistant_pb2.RunConfig, *, model: str = "") -> RunConfig:
    """Defaults filled in: of limits ours, of the model the one given."""
    return RunConfig(
        model=config.model or model,
        system_prompt=config.system_prompt,
        tools=tuple(config.tools),
        first_tool=config.first_tool,
        temperature=config.temperature if config.HasField("temperature") else None,
        seed=config.seed if config.HasField("seed") else None,
        limits=_limits(config.limits),
        response_json_schema=config.response_json_schema,
        approval_tools=tuple(config.approval_tools),
        pii_rules=tuple(map(_rule_from_proto, config.pii_rules)),
    )


def _limits(limits: assistant_pb2.RunLimits) -> Limits:
    return Limits(
        step_count=limits.step_count or DEFAULTS.step_count,
        model_call_count=limits.model_call_count or DEFAULTS.model_call_count,
        tool_call_count=limits.tool_call_count or DEFAULTS.tool_call_count,
        wall_s=seconds(limits.wall) if limits.HasField("wall") else DEFAULTS.wall_s,
        output_token_count_per_call=limits.output_token_count_per_call
        or DEFAULTS.output_token_count_per_call,
        token_count=limits.token_count or DEFAULTS.token_count,
        approval_wait_s=seconds(limits.approval_wait)
        if limits.HasField("approval_wait")
        else DEFAULTS.approval_wait_s,
    )


def assistant_to_proto(assistant: AssistantRecord) -> assistant_pb2.Assistant:
    return assistant_pb2.Assistant(
        assistant_id=str(assistant.assistant_id),
        version=assistant.version,
        display_name=assistant.display_name,
        config=assistant_pb2.RunConfig.FromString(assistant.config),
        create_time=timestamp(assistant.create_time),
        update_time=timestamp(assistant.update_time),
    )


def checkpoint_to_proto(checkpoint: "CheckpointRecord") -> CheckpointPb:
    return CheckpointPb(
        checkpoint_id=checkpoint.checkpoint_id,
        run_id=str(checkpoint.run_id),
        step_count=checkpoint.step_count,
        create_time=timestamp(checkpoint.create_time),
    )


def tool_to_proto(spec: ToolSpec, *, needs_approval: bool = False) -> ToolPb:
    return ToolPb(
        name=spec.name,
        description=spec.description,
        parameters_json_schema=spec.parameters_json_schema,
        effect=f"TOOL_EFFECT_{spec.effect.value}",
        needs_approval=needs_approval,
        timeout=duration(spec.timeout_s),
        is_confined=spec.is_confined,
        returns_untrusted=spec.returns_untrusted,
    )
