"""How a service learns what was revoked: one stream from the auth service, for as long as it runs.

The list is kept while the auth service is away: nothing can be revoked then, and what was stays so. A stream that
falls silent, or whose sender has not read its store for a while, is left for another replica's.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import grpc.aio
import structlog
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.revocation_pb2 import Revocation as Message
from ollamesh.auth.v1.revocation_pb2 import RevocationKind

from services.common.grpc.client import held
from services.common.revoked import DenyList, Kind, Revocation

if TYPE_CHECKING:  # Known to type checkers only.
    from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

log = structlog.get_logger(__name__)

HEARTBEAT_EVERY_S = 0.4
SILENCE_S_MAX = 2.0
AGE_S_MAX = 3.0
WATCH_S = 900.0  # Then anew, since every call has a deadline.
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0


class Follower:
    """Keeps a deny-list in step with the auth service's."""

    def __init__(
        self,
        auth: "AuthServiceAsyncStub",
        denied: DenyList,
        *,
        clock: Callable[[], float] = time.time,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        """`heard` is told whenever the auth service has said something that counts."""
        self._auth, self._denied, self._clock, self._heard = auth, denied, clock, heard
        self._known = asyncio.Event()
        self.keys_changed = (
            asyncio.Event()
        )  # Set when a signing key was taken away, and so another took its place.

    async def known(self) -> None:
        """Return once the list has been whole for the first time: before, nobody may be let in by it."""
        await self._known.wait()

    async def run(self) -> None:
        pause_s = PAUSE_S_MIN
        while True:
            began_s = time.monotonic()
            try:
                await self._watch()
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                ended = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "SILENCE"
                log.info("revocations_unwatched", why=ended)
            lasted = time.monotonic() - began_s > SILENCE_S_MAX
            pause_s = PAUSE_S_MIN if lasted else min(pause_s * 2, PAUSE_S_MAX)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - spreads those who come back.

    async def _watch(self) -> None:
        """Follow one stream until it ends or is worth no more."""
        with held(self._auth.WatchRevocations(pb.WatchRevocationsRequest(), timeout=WATCH_S)) as call:
            while True:
                async with asyncio.timeout(SILENCE_S_MAX):
                    event = await call.read()
                if not isinstance(event, pb.WatchRevocationsResponse):
                    return  # The end.
                match event.WhichOneof("event"):
                    case "snapshot":
                        self._learn(event.snapshot.revocations)
                        if event.snapshot.complete:
                            self._known.set()
                    case "changes":
                        self._learn(event.changes.revocations)
                    case "heartbeat":
                        self._denied.forget(self._clock())
                        if event.heartbeat.age.ToTimedelta().total_seconds() > AGE_S_MAX:
                            log.info("revocations_unwatched", why="STALE")
                            return
                self._heard()

    def _learn(self, messages: Iterable[Message]) -> None:
        entries = (from_message(message) for message in messages)
        new = self._denied.add((entry for entry in entries if entry is not None), now_s=self._clock())
        if any(entry.kind is Kind.SIGNING_KEY for entry in new):
            self.keys_changed.set()


def to_message(entry: Revocation) -> Message:
    message = Message(kind=f"REVOCATION_KIND_{entry.kind.name}", id=entry.id)
    message.forget_time.FromMilliseconds(round(entry.forget_at_s * 1000))
    if entry.issued_until_s is not None:
        message.issue_time_max.FromMilliseconds(math.ceil(entry.issued_until_s * 1000))
    return message


def from_message(message: Message) -> Revocation | None:
    """None for a kind that this version does not know, whose tokens it does not know either."""
    name = RevocationKind.Name(message.kind) if message.kind in RevocationKind.values() else ""
    kind = Kind.__members__.get(name.removeprefix("REVOCATION_KIND_"))
    if kind is None:
        return None
    has_cutoff = message.HasField("issue_time_max")
    return Revocation(
        kind=kind,
        id=message.id,
        issued_until_s=message.issue_time_max.ToMilliseconds() / 1000 if has_cutoff else None,
        forget_at_s=message.forget_time.ToMilliseconds() / 1000,
    )
