"""Threads over gRPC; decides nothing but what a request means."""

from uuid import uuid4

from ollamesh.agent.v1 import agent_service_pb2 as pb

from services.agent.core.ids import ThreadId
from services.agent.engine import Engine
from services.agent.errors import ThreadNotFound
from services.agent.ports import Sessions, Threads
from services.agent.rpc.asking import asked_as, deletion, next_page_token, owner, page
from services.agent.wire import resources, values
from services.common.audit import Trail
from services.common.grpc.around import Context
from services.common.grpc.caller import caller


class ThreadMethods:
    def __init__(self, engine: Engine, threads: Threads, sessions: Sessions, trail: Trail) -> None:
        self._engine, self._threads, self._sessions = engine, threads, sessions
        self._trail = trail

    async def CreateThread(
        self, request: pb.CreateThreadRequest, context: Context
    ) -> pb.CreateThreadResponse:
        thread = await self._threads.create(
            owner(),
            ThreadId(uuid4()),
            request.display_name,
            request.labels,
            asked_as(request, request.request_id),
        )
        return pb.CreateThreadResponse(thread=resources.thread_to_proto(thread))

    async def GetThread(self, request: pb.GetThreadRequest, context: Context) -> pb.GetThreadResponse:
        thread = await self._threads.find(owner(), values.thread_id(request.thread_id))
        return pb.GetThreadResponse(thread=resources.thread_to_proto(thread))

    async def ListThreads(self, request: pb.ListThreadsRequest, context: Context) -> pb.ListThreadsResponse:
        found = await self._threads.page(owner(), page(request.page_size, request.page_token))
        return pb.ListThreadsResponse(
            threads=map(resources.thread_to_proto, found.items),
            next_page_token=next_page_token(found.next_after),
        )

    async def DeleteThread(
        self, request: pb.DeleteThreadRequest, context: Context
    ) -> pb.DeleteThreadResponse:
        try:
            thread_id = values.thread_id(request.thread_id)
        except ThreadNotFound:
            return pb.DeleteThreadResponse()  # It is as gone as can be.
        whose = owner()
        await self._engine.clear(whose, thread_id)
        await self._sessions.end(whose, thread_id, token=caller().token)
        await self._threads.delete(whose, thread_id)
        self._trail.note(deletion(whose, f"thread/{thread_id}"))
        return pb.DeleteThreadResponse()

    async def ListMessages(
        self, request: pb.ListMessagesRequest, context: Context
    ) -> pb.ListMessagesResponse:
        found = await self._threads.messages(
            owner(), values.thread_id(request.thread_id), page(request.page_size, request.page_token)
        )
        return pb.ListMessagesResponse(
            messages=map(resources.message_record_to_proto, found.items),
            next_page_token=next_page_token(found.next_after),
        )
