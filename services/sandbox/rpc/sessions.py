"""Sessions: protobuf on one side, domain types on the other; decides nothing."""

import asyncio
import hashlib
import time

from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

from services.common.errors import InvalidRequest, Violation
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.sandbox.core.limits import granted
from services.sandbox.core.owners import Owner
from services.sandbox.core.pages import Position, position_from_token, position_to_token
from services.sandbox.core.sessions import State
from services.sandbox.limits_config import RoleCaps
from services.sandbox.rpc.messages import asked_limits, limits_message
from services.sandbox.session import Session
from services.sandbox.sessions import Request, Sessions, Wish

PAGE_SIZE = 20


class SessionMethods:
    def __init__(self, sessions: Sessions, caps: RoleCaps) -> None:
        self._sessions, self._caps = sessions, caps

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        wish = Wish(
            profile=request.profile,
            engine=request.engine,
            limits=granted(asked_limits(request.limits), self._caps.of(caller())),
            idle_s=request.idle_timeout.ToTimedelta().total_seconds()
            if request.HasField("idle_timeout")
            else None,
        )
        session = await self._sessions.create(owner(), wish, _named(request))
        return pb.CreateSessionResponse(session=_message(session))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=_message(self._sessions.get(owner(), request.session_id)))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        found, more = self._sessions.page(
            owner(), before=_position(request.page_token), count_max=request.page_size or PAGE_SIZE
        )
        return pb.ListSessionsResponse(
            sessions=map(_message, found),
            next_page_token=position_to_token(found[-1].position) if more else "",
        )

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> pb.DeleteSessionResponse:
        await self._sessions.delete(owner(), request.session_id)
        return pb.DeleteSessionResponse()


def owner() -> Owner:
    """Whose what the caller makes is."""
    known = caller()
    return Owner(organization_id=known.organization_id, user_id=known.user_id)


def _named(request: pb.CreateSessionRequest) -> Request | None:
    if not request.request_id:
        return None
    body = request.SerializeToString(deterministic=True)
    return Request(request.request_id, hashlib.sha256(body).digest())


def _position(page_token: str) -> Position | None:
    """Where a page begins. Raises InvalidRequest."""
    if not page_token:
        return None
    try:
        return position_from_token(page_token)
    except ValueError:
        raise InvalidRequest([Violation("page_token", "is not one of ours", "page_token")]) from None


def _message(session: Session) -> pb.Session:
    is_idle = session.life.state is State.IDLE
    message = pb.Session(
        session_id=session.session_id,
        profile=session.profile,
        state=pb.SESSION_STATE_IDLE if is_idle else pb.SESSION_STATE_BUSY,
        restart_count=session.life.restart_count,
        engine=session.engine,
        limits=limits_message(session.limits),
        expire_time=_when(session.life.expires_s),
        end_time=_when(session.life.ends_s),
    )
    message.create_time.FromMicroseconds(session.position.created_us)
    return message


def _when(loop_s: float) -> Timestamp:
    """The time of day at a time of the loop's clock."""
    at = Timestamp()
    at.FromMicroseconds(round((time.time() + loop_s - asyncio.get_running_loop().time()) * 1e6))
    return at
