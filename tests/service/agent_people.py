"""People who decide about calls: what a test does in their place."""

import asyncio
from collections.abc import Sequence

from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_INTERRUPTED, Run, RunEvent

from tests.service.agent_app import TIMEOUT_S, User

APPROVE = pb.SubmitApprovalRequest.Approve()
Question = RunEvent.ApprovalRequested


async def waiting(user: User, run_id: str) -> Sequence[Question]:
    """What a run waits for, once it waits."""
    async with asyncio.timeout(TIMEOUT_S):
        while not (run := await user.run(run_id)).pending_approvals:
            assert not run.HasField("end_time"), f"it ended and waited for nobody: {run}"
            await asyncio.sleep(0.01)
    assert run.status == RUN_STATUS_INTERRUPTED
    return run.pending_approvals


async def submit(
    user: User,
    run_id: str,
    question: Question,
    *,
    call_hash: bytes | None = None,
    edit: str | None = None,
    reject: str | None = None,
) -> Run:
    """Decide; approve it if nothing else is said."""
    request = pb.SubmitApprovalRequest(
        run_id=run_id,
        approval_id=question.approval_id,
        call_hash=question.call_hash if call_hash is None else call_hash,
        approve=APPROVE if edit is None and reject is None else None,
        edit=None if edit is None else pb.SubmitApprovalRequest.Edit(arguments_json=edit),
        reject=None if reject is None else pb.SubmitApprovalRequest.Reject(reason=reject),
    )
    return (await user.stub.SubmitApproval(request, **user.options)).run


async def watched_by_a_wary_person(user: User, run_id: str) -> tuple[list[RunEvent], list[str]]:
    """The whole run, and the tools of the calls that its owner was asked about, all of which they rejected."""
    events: list[RunEvent] = []
    names: dict[str, str] = {}
    asked: list[str] = []
    request = pb.WatchRunRequest(run_id=run_id)
    async for response in user.stub.WatchRun(request, **user.options):
        event = response.event
        events.append(event)
        if event.HasField("tool_called"):
            names[event.tool_called.call.tool_call_id] = event.tool_called.call.tool_name
        if event.HasField("approval_requested"):
            asked.append(names[event.approval_requested.tool_call_id])
            await submit(user, run_id, event.approval_requested, reject="I did not ask for this")
    return events, asked
