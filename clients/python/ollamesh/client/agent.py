"""Agents: threads, runs that go on whoever watches, and decisions about their calls; one method for each call."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

import grpc.aio
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from ollamesh.agent.v1.run_pb2 import DISCONNECT_POLICY_CANCEL, DISCONNECT_POLICY_CONTINUE
from ollamesh.client import runs
from ollamesh.client.calls import Calls
from ollamesh.client.resuming import resumed
from ollamesh.client.runs_wire import config_of, event_of, run_of, tool_of

Request = TypeVar("Request")
Response = TypeVar("Response")


class Question(Protocol):
    """What a person decides: `runs.ApprovalRequested`, or one of `runs.Run.pending_approvals`."""

    @property
    def approval_id(self) -> str: ...

    @property
    def call_hash(self) -> bytes: ...


class Agent:
    """Has models work with tools until they have an answer. It is `Client.agent`."""

    def __init__(
        self, calls: Calls, channel: grpc.aio.Channel, *, deadline_s: float, stream_deadline_s: float
    ) -> None:
        self._calls, self._stub = calls, AgentServiceStub(channel)
        self._deadline_s, self._stream_deadline_s = deadline_s, stream_deadline_s

    async def create_thread(self, display_name: str = "") -> str:
        """Start a conversation and return its id."""
        request = pb.CreateThreadRequest(request_id=str(uuid.uuid4()), display_name=display_name)
        return (await self._call(self._stub.CreateThread, request)).thread.thread_id

    async def tools(self) -> list[runs.Tool]:
        """What may be given to a run."""
        response = await self._call(self._stub.ListTools, pb.ListToolsRequest())
        return [tool_of(tool) for tool in response.tools]

    # ---- Runs --------------------------------------------------------------------------------------

    async def start(  # noqa: PLR0913 - One for each choice there is.
        self,
        thread_id: str,
        task: str,
        config: runs.Config | None = None,
        *,
        assistant_id: str = "",
        busy_policy: runs.BusyPolicy = "enqueue",
        ends_unwatched: bool = False,
        request_id: str | None = None,
    ) -> runs.Run:
        """Have an agent work on a thread. The run is stored and goes on, whoever watches, unless it `ends_unwatched`.

        What `config` sets replaces the assistant's. With a `request_id` of one's own, the same call again finds the
        same run.
        """
        request = pb.StartRunRequest(
            request_id=str(uuid.uuid4()) if request_id is None else request_id,
            thread_id=thread_id,
            input=task,
            assistant_id=assistant_id,
            config=config_of(config or runs.Config()),
            busy_policy=runs.BUSY_POLICIES[busy_policy],
            disconnect_policy=DISCONNECT_POLICY_CANCEL if ends_unwatched else DISCONNECT_POLICY_CONTINUE,
        )
        return run_of((await self._call(self._stub.StartRun, request)).run)

    async def start_many(
        self,
        tasks: Sequence[str],
        config: runs.Config | None = None,
        *,
        assistant_id: str = "",
        request_id: str | None = None,
    ) -> list[runs.Run]:
        """Have many tasks done when there is nothing more urgent, each on a thread of its own: all or none."""
        request = pb.StartRunsRequest(
            request_id=str(uuid.uuid4()) if request_id is None else request_id,
            inputs=tasks,
            assistant_id=assistant_id,
            config=config_of(config or runs.Config()),
        )
        return [run_of(run) for run in (await self._call(self._stub.StartRuns, request)).runs]

    async def get(self, run_id: str) -> runs.Run:
        """Tell how far a run is, and what it waits for."""
        return run_of((await self._call(self._stub.GetRun, pb.GetRunRequest(run_id=run_id))).run)

    async def list_runs(self, thread_id: str) -> AsyncGenerator[runs.Run, None]:
        """List the runs of a thread, newest first."""
        request = pb.ListRunsRequest(thread_id=thread_id)
        while True:
            response = await self._call(self._stub.ListRuns, request)
            for run in response.runs:
                yield run_of(run)
            if not response.next_page_token:
                return
            request = pb.ListRunsRequest(thread_id=thread_id, page_token=response.next_page_token)

    async def cancel(self, run_id: str, *, rollback: bool = False) -> runs.Run:
        """End a run. What it has done stays done; with `rollback` the thread forgets what was said."""
        request = pb.CancelRunRequest(run_id=run_id, rollback=rollback)
        return run_of((await self._call(self._stub.CancelRun, request)).run)

    async def watch(
        self, run_id: str, *, after_sequence: int = 0, deadline_s: float | None = None
    ) -> AsyncGenerator[runs.Event, None]:
        """Stream a run's events after `after_sequence`, live or finished, each of them once.

        A lost connection is made anew, a few times and ever more patiently, and the stream goes on from
        the event where it was. Leaving it does nothing to the run, unless that `ends_unwatched`.
        """

        def opened(after: int, left_s: float) -> AsyncGenerator[pb.WatchRunResponse, None]:
            request = pb.WatchRunRequest(run_id=run_id, after_sequence=after)
            return self._calls.stream(self._stub.WatchRun, request, deadline_s=left_s)

        responses = resumed(
            opened,
            lambda response: response.event.sequence,
            after_sequence=after_sequence,
            deadline_s=self._stream_deadline_s if deadline_s is None else deadline_s,
        )
        async with aclosing(responses):
            async for response in responses:
                if (event := event_of(response.event)) is not None:
                    yield event

    # ---- Decisions ---------------------------------------------------------------------------------

    async def approve(self, run_id: str, question: Question) -> runs.Run:
        """Have the call made, exactly as it was asked about. Raises CallError, also if it is decided otherwise."""
        return await self._submit(run_id, question, approve=pb.SubmitApprovalRequest.Approve())

    async def edit(self, run_id: str, question: Question, arguments_json: str) -> runs.Run:
        """Have the call made with other arguments: a JSON object, as JSON text."""
        edit = pb.SubmitApprovalRequest.Edit(arguments_json=arguments_json)
        return await self._submit(run_id, question, edit=edit)

    async def reject(self, run_id: str, question: Question, reason: str = "") -> runs.Run:
        """Have the call not made. The model is told, and why if there is a `reason`."""
        return await self._submit(run_id, question, reject=pb.SubmitApprovalRequest.Reject(reason=reason))

    async def _submit(
        self,
        run_id: str,
        question: Question,
        *,
        approve: pb.SubmitApprovalRequest.Approve | None = None,
        edit: pb.SubmitApprovalRequest.Edit | None = None,
        reject: pb.SubmitApprovalRequest.Reject | None = None,
    ) -> runs.Run:
        request = pb.SubmitApprovalRequest(
            run_id=run_id,
            approval_id=question.approval_id,
            call_hash=question.call_hash,
            approve=approve,
            edit=edit,
            reject=reject,
        )
        return run_of((await self._call(self._stub.SubmitApproval, request)).run)

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request
    ) -> Response:
        return await self._calls.unary(method, request, deadline_s=self._deadline_s)
