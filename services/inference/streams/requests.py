"""Which stream answers a request that its caller has named, so that a retry is safe."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from services.inference.core.callers import Principal
from services.inference.core.secret_names import Names
from services.inference.errors import RequestIdReused, StreamExpired
from services.inference.streams.ports import Away, SharedLog

REMEMBERED_S = 600.0
REMEMBERED_MAX = 65_536  # Here; the oldest are forgotten first.
LOST_MAX = 4  # Streams of one request.

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """A request, as its caller has named it, and the stream that is to answer it."""

    caller: Principal
    request_id: str
    body_hash: str
    stream_id: str
    instead_of: str = ""  # The stream that was to answer it, and is lost.


@dataclass(frozen=True, slots=True)
class _Answer:
    stream_id: str
    body_hash: str
    until_s: float


class Requests:
    """For ten minutes the same id with the same body is the same request. Here, and where replicas share it."""

    def __init__(self, names: Names, shared: SharedLog | None, *, kept_s: float) -> None:
        """`kept_s` is how long streams are kept."""
        self._names = names
        self._shared = shared
        self._outlived = shared is not None and kept_s >= REMEMBERED_S
        self._asking: dict[bytes, asyncio.Future[None]] = {}
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()  # The oldest first.

    async def answered(self, claim: Claim, read: Callable[[str], Awaitable[T]]) -> tuple[Claim, T | None]:
        """Return what `read` makes of the stream that answers the request already; None if the claim's is to.

        Streams are kept longer than requests are remembered. So one that nobody knows was lost with its maker before
        anything of it was kept, and another one takes its place: the same for all who ask.
        """
        for _ in range(LOST_MAX):
            found = await self.claim(claim)
            if found == claim.stream_id:
                return claim, None
            try:
                return claim, await read(found)
            except StreamExpired:
                if not self._outlived:
                    raise
                claim = replace(claim, instead_of=found)
        raise StreamExpired

    async def claim(self, claim: Claim) -> str:
        """Return the stream that answers the request: the claim's, or the one that does already.

        Raises RequestIdReused.
        """
        name = self._name(claim)
        while (asking := self._asking.get(name)) is not None:
            await asyncio.shield(asking)  # Whoever came first finds out for all.
        known = self._answers.get(name)
        if known is not None and known.until_s > _now_s():
            return _same(known.stream_id, known.body_hash, claim)
        asking = self._asking[name] = asyncio.get_running_loop().create_future()
        try:
            stream_id, body_hash = await self._ask(name, claim)
            self._remember(name, stream_id, body_hash)
        finally:
            del self._asking[name]
            asking.set_result(None)
        return _same(stream_id, body_hash, claim)

    async def _ask(self, name: bytes, claim: Claim) -> tuple[str, str]:
        """Return which stream answers the request as far as all replicas know, and the hash of its body."""
        if self._shared is not None and self._shared.up:
            try:
                found = await self._shared.claim(name, f"{claim.stream_id}:{claim.body_hash}")
            except Away:
                return claim.stream_id, claim.body_hash
            stream_id, _, body_hash = found.partition(":")
            return stream_id, body_hash
        return claim.stream_id, claim.body_hash

    async def forget(self, claim: Claim) -> None:
        """The request was refused: the next one of its name is a new one."""
        name = self._name(claim)
        if (known := self._answers.get(name)) is not None and known.stream_id == claim.stream_id:
            del self._answers[name]
        if self._shared is not None and self._shared.up:
            try:
                await self._shared.release(name, f"{claim.stream_id}:{claim.body_hash}")
            except Away:
                return

    def _remember(self, name: bytes, stream_id: str, body_hash: str) -> None:
        self._answers[name] = _Answer(stream_id, body_hash, _now_s() + REMEMBERED_S)
        self._answers.move_to_end(name)
        while len(self._answers) > REMEMBERED_MAX:
            self._answers.popitem(last=False)

    def _name(self, claim: Claim) -> bytes:
        text = f"request\0{claim.caller.user_id}\0{claim.request_id}\0{claim.instead_of}"
        return self._names.name(claim.caller.organization_id, text.encode())


def _same(stream_id: str, body_hash: str, claim: Claim) -> str:
    if body_hash != claim.body_hash:
        raise RequestIdReused
    return stream_id


def _now_s() -> float:
    return asyncio.get_running_loop().time()
