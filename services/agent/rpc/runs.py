"""Runs over gRPC; decides nothing but what a request means."""

from collections.abc import AsyncIterator
from uuid import uuid4

from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.run_pb2 import (
    BUSY_POLICY_ENQUEUE,
    BUSY_POLICY_INTERRUPT,
    BUSY_POLICY_REJECT,
    BUSY_POLICY_ROLLBACK,
    BUSY_POLICY_UNSPECIFIED,
    DISCONNECT_POLICY_CANCEL,
    Run,
    RunEvent,
)

from services.agent.approving import Approving
from services.agent.core import prompt
from services.agent.core.ids import RunId
from services.agent.engine import Engine
from services.agent.ports import Access, Busy, NewRun, RunRecord, Runs
from services.agent.rpc.asking import asked_as, next_page_token, owner, page
from services.agent.rpc.configs import Configs
from services.agent.wire import resources, values
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.common.grpc.validation import further
from services.common.screening import FLAG_HEADER, Screen

BUSY = {
    BUSY_POLICY_UNSPECIFIED: Busy.ENQUEUE,
    BUSY_POLICY_ENQUEUE: Busy.ENQUEUE,
    BUSY_POLICY_REJECT: Busy.REJECT,
    BUSY_POLICY_INTERRUPT: Busy.INTERRUPT,
    BUSY_POLICY_ROLLBACK: Busy.ROLLBACK,
}


class RunMethods:
    def __init__(
        self,
        engine: Engine,
        runs: Runs,
        configs: Configs,
        screen: Screen,
        approving: Approving,
        *,
        watched_for_s: float,
    ) -> None:
        """`watched_for_s` is how long a run that ends unwatched may go without a watcher."""
        self._engine, self._runs, self._configs, self._screen = engine, runs, configs, screen
        self._approving, self._watched_for_s = approving, watched_for_s

    async def StartRun(self, request: pb.StartRunRequest, context: Context) -> pb.StartRunResponse:
        question = prompt.normalised(request.input)
        if self._screen.flags([("input", question)]):
            await context.send_initial_metadata((FLAG_HEADER,))
        whose, retry = owner(), asked_as(request, request.request_id)
        # Before its configuration is asked about: an assistant, or a tool, may be gone by now.
        if retry is not None and (first := await self._runs.repeated(whose, retry)) is not None:
            return pb.StartRunResponse(run=await self._told(first))
        chosen = await self._configs.chosen(owner(), request.assistant_id, request.config)
        new = NewRun(
            run_id=RunId(uuid4()),
            thread_id=values.thread_id(request.thread_id),
            question=self._configs.storable(question, chosen.config),
            config=chosen.config,
            assistant_id=chosen.assistant_id,
            assistant_version=chosen.assistant_version,
            busy=BUSY[request.busy_policy],
            watched_for_s=self._watched_for_s
            if request.disconnect_policy == DISCONNECT_POLICY_CANCEL
            else None,
        )
        access = Access(token=caller().token, expire_time_s=caller().expires_at_s)
        run = await self._engine.start(whose, new, access=access, retry=retry)
        return pb.StartRunResponse(run=resources.run_to_proto(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        run = await self._runs.find(owner(), values.run_id(request.run_id))
        return pb.GetRunResponse(run=await self._told(run))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        found = await self._runs.page(
            owner(), values.thread_id(request.thread_id), page(request.page_size, request.page_token)
        )
        return pb.ListRunsResponse(
            runs=[await self._told(run) for run in found.items],
            next_page_token=next_page_token(found.next_after),
        )

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        run = await self._engine.cancel(owner(), values.run_id(request.run_id), rollback=request.rollback)
        return pb.CancelRunResponse(run=resources.run_to_proto(run))

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        run = await self._runs.find(owner(), values.run_id(request.run_id))
        leave = self._engine.watching(run)
        context.add_done_callback(lambda _: leave())  # type: ignore[arg-type]
        async for event in self._engine.watch(run.run_id, after_sequence=request.after_sequence):
            yield pb.WatchRunResponse(event=RunEvent.FromString(event.payload))

    async def _told(self, run: RunRecord) -> Run:
        return resources.run_to_proto(run, pending=await self._approving.pending(run))


further(pb.StartRunRequest, lambda request: prompt.broken_rules(request.input))
