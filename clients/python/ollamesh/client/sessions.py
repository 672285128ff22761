"""Sessions of the sandbox and their files, as Python values.

A session is a jail that keeps its variables and files from one program to the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ollamesh.client.executions import Limits, limits_of
from ollamesh.client.values import time
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

State = Literal["idle", "busy", "unknown"]

STATES: Mapping[int, State] = {
    pb.SESSION_STATE_IDLE: "idle",
    pb.SESSION_STATE_BUSY: "busy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session. Idleness ends it at `expire_time`, and `end_time` does however busy it is.

    `restart_count` says how often its interpreter was lost, and its variables with it.
    """

    session_id: str
    profile: str
    engine: str
    state: State
    limits: Limits
    create_time: datetime | None
    expire_time: datetime | None
    end_time: datetime | None
    restart_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file or folder. `path` is relative to the session's folder, with "/" between its parts."""

    path: str
    size_bytes: int
    is_folder: bool
    modified_time: datetime | None


def session_of(message: pb.Session) -> Session:
    return Session(
        session_id=message.session_id,
        profile=message.profile,
        engine=message.engine,
        state=STATES.get(message.state, "unknown"),
        limits=limits_of(message.limits),
        create_time=time(message.create_time),
        expire_time=time(message.expire_time),
        end_time=time(message.end_time),
        restart_count=message.restart_count,
    )


def file_of(message: pb.File) -> File:
    return File(
        path=message.path,
        size_bytes=message.size_bytes,
        is_folder=message.folder,
        modified_time=time(message.modified_time),
    )
