"""Protobuf on one side, domain types on the other; decides nothing but what a request means."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from uuid import uuid4

from google.protobuf.message import Message
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceServicer
from ollamesh.agent.v1.run_pb2 import (
    BUSY_POLICY_INTERRUPT,
    BUSY_POLICY_REJECT,
    BUSY_POLICY_ROLLBACK,
    DISCONNECT_POLICY_CANCEL,
    RunEvent,
)

from services.agent.core import prompt
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.run_config import RunConfig
from services.agent.engine import Engine
from services.agent.errors import AssistantNotFound, ThreadNotFound, ToolNotFound
from services.agent.ports import NewRun, PageRequest, Retry, Runs, Threads, ToolSpec
from services.agent.wire import resources, values
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import InvalidRequest, NotServed, Violation
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.common.grpc.validation import further
from services.common.screening import FLAG_HEADER, Screen

PAGE_SIZE = 20


class AgentServicer(AgentServiceServicer):
    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        engine: Engine,
        threads: Threads,
        runs: Runs,
        *,
        tools: Mapping[str, ToolSpec],
        default_model: str,
        screen: Screen,
        trail: Trail,
    ) -> None:
        self._engine, self._threads, self._runs = engine, threads, runs
        self._tools, self._default_model = tools, default_model
        self._screen, self._trail = screen, trail

    async def CreateThread(
        self, request: pb.CreateThreadRequest, context: Context
    ) -> pb.CreateThreadResponse:
        thread = await self._threads.create(
            _owner(),
            ThreadId(uuid4()),
            request.display_name,
            request.labels,
            _retry(request, request.request_id),
        )
        return pb.CreateThreadResponse(thread=resources.thread_to_proto(thread))

    async def GetThread(self, request: pb.GetThreadRequest, context: Context) -> pb.GetThreadResponse:
        thread = await self._threads.find(_owner(), values.thread_id(request.thread_id))
        return pb.GetThreadResponse(thread=resources.thread_to_proto(thread))

    async def ListThreads(self, request: pb.ListThreadsRequest, context: Context) -> pb.ListThreadsResponse:
        page = await self._threads.page(_owner(), _page(request.page_size, request.page_token))
        return pb.ListThreadsResponse(
            threads=map(resources.thread_to_proto, page.items), next_page_token=_token(page.next_after)
        )

    async def DeleteThread(
        self, request: pb.DeleteThreadRequest, context: Context
    ) -> pb.DeleteThreadResponse:
        try:
            thread_id = values.thread_id(request.thread_id)
        except ThreadNotFound:
            return pb.DeleteThreadResponse()  # It is as gone as can be.
        await self._engine.clear(_owner(), thread_id)
        await self._threads.delete(_owner(), thread_id)
        who = caller()
        self._trail.note(
            Happened(
                action=Action.DATA_DELETED,
                outcome=Outcome.ALLOWED,
                user_id=who.user_id,
                organization_id=who.organization_id,
                object=f"thread/{thread_id}",
            )
        )
        return pb.DeleteThreadResponse()

    async def ListMessages(
        self, request: pb.ListMessagesRequest, context: Context
    ) -> pb.ListMessagesResponse:
        page = await self._threads.messages(
            _owner(), values.thread_id(request.thread_id), _page(request.page_size, request.page_token)
        )
        return pb.ListMessagesResponse(
            messages=map(resources.message_record_to_proto, page.items),
            next_page_token=_token(page.next_after),
        )

    async def StartRun(self, request: pb.StartRunRequest, context: Context) -> pb.StartRunResponse:
        question = prompt.normalised(request.input)
        if self._screen.flags([("input", question)]):
            await context.send_initial_metadata((FLAG_HEADER,))
        new = NewRun(
            run_id=RunId(uuid4()),
            thread_id=values.thread_id(request.thread_id),
            question=question,
            config=self._config(request),
            reject_if_busy=request.busy_policy == BUSY_POLICY_REJECT,
        )
        run = await self._engine.start(
            _owner(), new, token=caller().token, retry=_retry(request, request.request_id)
        )
        return pb.StartRunResponse(run=resources.run_to_proto(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        run = await self._runs.find(_owner(), values.run_id(request.run_id))
        return pb.GetRunResponse(run=resources.run_to_proto(run))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        page = await self._runs.page(
            _owner(), values.thread_id(request.thread_id), _page(request.page_size, request.page_token)
        )
        return pb.ListRunsResponse(
            runs=map(resources.run_to_proto, page.items), next_page_token=_token(page.next_after)
        )

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        if request.rollback:
            raise NotServed
        run = await self._engine.cancel(_owner(), values.run_id(request.run_id))
        return pb.CancelRunResponse(run=resources.run_to_proto(run))

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        run = await self._runs.find(_owner(), values.run_id(request.run_id))
        async for event in self._engine.watch(run.run_id, after_sequence=request.after_sequence):
            yield pb.WatchRunResponse(event=RunEvent.FromString(event.payload))

    async def ListTools(self, request: pb.ListToolsRequest, context: Context) -> pb.ListToolsResponse:
        return pb.ListToolsResponse(tools=map(resources.tool_to_proto, self._tools.values()))

    def _config(self, request: pb.StartRunRequest) -> RunConfig:
        """The run's configuration, if this version serves it."""
        if request.assistant_id:
            raise AssistantNotFound
        if (
            request.busy_policy in {BUSY_POLICY_INTERRUPT, BUSY_POLICY_ROLLBACK}
            or request.disconnect_policy == DISCONNECT_POLICY_CANCEL
            or request.config.response_json_schema
        ):
            raise NotServed
        config = resources.config_from_proto(request.config, model=self._default_model)
        for name in config.tools:
            if name not in self._tools:
                raise ToolNotFound(tool=name)
        if config.first_tool and config.first_tool not in config.tools:
            raise InvalidRequest([Violation("config.first_tool", "must be one of config.tools")])
        return config


further(pb.StartRunRequest, lambda request: prompt.broken_rules(request.input))


def _owner() -> Owner:
    return Owner(caller().organization_id, caller().user_id)


def _retry(request: Message, request_id: str) -> Retry | None:
    """How the same request is known again: by its id, its method and its body."""
    if not request_id:
        return None
    body = request.DESCRIPTOR.full_name.encode() + request.SerializeToString(deterministic=True)
    return Retry(request_id=request_id, body_hash=hashlib.sha256(body).digest())


def _page(size: int, token: str) -> PageRequest:
    if token and not (token.isascii() and token.isdigit() and len(token) <= 18):
        raise InvalidRequest([Violation("page_token", "is not one that was given out")])
    return PageRequest(size=size or PAGE_SIZE, after=int(token) if token else None)


def _token(next_after: int | None) -> str:
    return "" if next_after is None else str(next_after)
