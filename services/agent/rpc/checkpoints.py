"""Checkpoints over gRPC; decides nothing but what a request means."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ollamesh.agent.v1 import agent_service_pb2 as pb

from services.agent.core.ids import Owner, ThreadId
from services.agent.ports import Threads
from services.agent.rpc.asking import PAGE_SIZE, owner
from services.agent.wire import resources, values
from services.common.errors import InvalidRequest, Violation
from services.common.grpc.around import Context

if TYPE_CHECKING:
    from services.agent.adapters.checkpoints import CheckpointRecord

_ID = re.compile(r"[0-9a-f-]{1,64}")  # As LangGraph makes them.


class Pages(Protocol):
    async def page(
        self, owner: Owner, thread_id: ThreadId, *, size: int, before: str | None
    ) -> "Sequence[CheckpointRecord]":
        """What can be gone on from in a thread's runs, newest first, from behind the one that is named."""
        ...


class CheckpointMethods:
    def __init__(self, threads: Threads, checkpoints: Pages) -> None:
        self._threads, self._checkpoints = threads, checkpoints

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: Context
    ) -> pb.ListCheckpointsResponse:
        """A page token is the id of the last checkpoint of the page before."""
        token, size = request.page_token, request.page_size or PAGE_SIZE
        if token and _ID.fullmatch(token) is None:
            raise InvalidRequest([Violation("page_token", "is not one that was given out")])
        thread = await self._threads.find(owner(), values.thread_id(request.thread_id))
        found = await self._checkpoints.page(owner(), thread.thread_id, size=size + 1, before=token or None)
        return pb.ListCheckpointsResponse(
            checkpoints=map(resources.checkpoint_to_proto, found[:size]),
            next_page_token=found[size - 1].checkpoint_id if len(found) > size else "",
        )
