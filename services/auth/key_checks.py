"""Whether an API key lets a request in.

Asked by the edge for every request that comes with a key, so it answers from memory: a key's row is asked for when the
key is first seen, and again, while requests go on, once what is known is FRESH_S old. What was revoked is known within
a second without asking, and has the row read anew.

    unknown ──▶ asked for, once for all who wait ──▶ fresh ──30 s──▶ served, and asked for again ──120 s──▶ unknown

While the store is away, a key that was read goes on until it is unknown again, and others are told to come back. All
that is remembered is bounded; what was used least recently is forgotten first.

The event loop is the lock: nothing awaits between reading what is known and changing it.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from services.auth.api_keys import ApiKeyStore
from services.auth.core.api_keys import CLIENT_ID, Kept, KeyForm, Presented, for_service, identity_of
from services.auth.key_swaps import Swapped, Swaps
from services.auth.key_uses import KeyUses
from services.auth.ports import Clock
from services.common.audit import Outcome
from services.common.errors import AuthUnavailable, MeshError, StoreFailure, TokenExpired, TokenInvalid

FRESH_S = 30.0
KNOWN_S = 120.0
UNKNOWN_S = 30.0  # How long it is remembered that there is no such key.
KNOWN_MAX, UNKNOWN_MAX = 10_000, 10_000
ASK_AGAIN_AFTER_S = 1.0  # A store that did not answer.
AT_ONCE = 3  # Questions to the store; others of this service need connections too.
WAITING_MAX = 64  # Keys that are asked for. Made-up ones must not have real ones wait for long.

V = TypeVar("V")


class Denials(Protocol):
    """What was revoked (services/common/revoked.py)."""

    def denies(self, token: Swapped, /) -> bool: ...

    def issuable_from_s(self, user_id: str, client_id: str, /) -> float: ...


@dataclass(slots=True, kw_only=True)
class _Known:
    kept: Kept
    read_at_s: float  # By the steady clock.
    asked_at_s: float
    true_at_s: float  # By the clock of the day: what its owner lost later is not in it.
    swapped: dict[str, Swapped] = field(default_factory=dict)  # By service.


class KeyChecks:
    """`run` must be running."""

    def __init__(
        self,
        *,
        store: ApiKeyStore,
        form: KeyForm,
        swaps: Swaps,
        uses: KeyUses,
        denied: Denials,
        clock: Clock = time,
    ) -> None:
        self._store, self._form, self._swaps, self._uses = store, form, swaps, uses
        self._denied, self._clock = denied, clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()  # Until when.
        self._asking: dict[bytes, asyncio.Task[_Known | MeshError]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Ask for keys, and write down when they were used, for as long as the service runs."""
        async with asyncio.TaskGroup() as self._tasks:
            await self._uses.run()

    async def answer(self, text: str, service: str) -> bytes:
        """What lets the request pass. Raises TokenInvalid, TokenExpired, AuthUnavailable."""
        presented = self._form.read(text)
        if presented is None:
            self._uses.checked("malformed")
            raise TokenInvalid
        try:
            answer = await self._answer(presented, service)
        except MeshError as error:
            self._uses.checked("unavailable" if isinstance(error, AuthUnavailable) else "refused")
            raise
        self._uses.checked("passed")
        return answer

    async def _answer(self, presented: Presented, service: str) -> bytes:
        known = self._recalled(presented) or await self._asked(presented)
        if self._lost_at_s(known) <= known.true_at_s:
            swapped = self._swapped(known, service)
            if not self._denied.denies(swapped):
                return swapped.answer
        # The key was revoked, or its owner has lost something. The store says what is true now.
        swapped = self._swapped(await self._asked_anew(presented, known), service)
        if self._denied.denies(swapped):
            raise TokenInvalid
        return swapped.answer

    def _lost_at_s(self, known: _Known) -> float:
        """When the owner of the key last lost rights, as far as is known here."""
        return self._denied.issuable_from_s(known.kept.key.user_id, CLIENT_ID)

    async def _asked_anew(self, presented: Presented, known: _Known) -> _Known:
        """What the store says to a question that was put after all that is known here was lost."""
        lost_at_s = self._lost_at_s(known)
        if (begun := self._asking.get(presented.digest)) is not None:
            await asyncio.shield(begun)  # The store may have read for it before that.
        self._known.pop(presented.digest, None)
        found = await self._asked(presented)
        found.true_at_s = max(found.true_at_s, lost_at_s)  # Another replica's clock may be ahead of ours.
        return found

    def _recalled(self, presented: Presented) -> _Known | None:
        """What is known, if it will do. Raises TokenInvalid for what the store does not have."""
        now_s = self._clock.monotonic()
        if self._unknown.get(presented.digest, now_s) > now_s:
            raise TokenInvalid
        known = self._known.get(presented.digest)
        if known is None or now_s - known.read_at_s > KNOWN_S:
            return None
        self._known.move_to_end(presented.digest)
        if now_s - known.read_at_s > FRESH_S and now_s - known.asked_at_s >= ASK_AGAIN_AFTER_S:
            known.asked_at_s = now_s
            self._ask(presented)
        return known

    async def _asked(self, presented: Presented) -> _Known:
        asking = self._ask(presented)
        if asking is None:
            raise AuthUnavailable
        found = await asyncio.shield(asking)  # Others wait for it too.
        if isinstance(found, MeshError):
            raise found
        return found

    def _ask(self, presented: Presented) -> "asyncio.Task[_Known | MeshError] | None":
        """Ask the store, unless it is being asked; None if too much is."""
        digest = presented.digest
        if (asking := self._asking.get(digest)) is not None:
            return asking
        if len(self._asking) >= WAITING_MAX or self._tasks is None:
            return None
        asking = self._asking[digest] = self._tasks.create_task(self._find(presented))
        asking.add_done_callback(lambda _: self._asking.pop(digest))
        return asking

    async def _find(self, presented: Presented) -> _Known | MeshError:
        """Returns failures: raised, they would end the group of tasks, and with it the service."""
        # Not later: what is read may be as old as the question.
        asked_at_s, true_at_s = self._clock.monotonic(), self._clock.time()
        try:
            async with self._places:
                kept = await self._store.find(presented.key_id)
        except StoreFailure:
            return AuthUnavailable()
        if kept is None or not presented.fits(kept):
            self._known.pop(presented.digest, None)
            _remember(self._unknown, presented.digest, asked_at_s + UNKNOWN_S, UNKNOWN_MAX)
            return TokenInvalid()
        known = _Known(kept=kept, read_at_s=asked_at_s, asked_at_s=asked_at_s, true_at_s=true_at_s)
        _remember(self._known, presented.digest, known, KNOWN_MAX)
        return known

    def _swapped(self, known: _Known, service: str) -> Swapped:
        """The token in place of the key, there. Raises TokenInvalid, TokenExpired, AuthUnavailable."""
        key, now_s = known.kept.key, self._clock.time()
        identity = identity_of(known.kept, now_s)
        there = for_service(identity, service) if identity else None
        self._uses.note(key, Outcome.ALLOWED if there else Outcome.DENIED)
        if there is None:
            over = key.revoked_at_s is None and now_s >= key.expires_at_s
            raise TokenExpired if over else TokenInvalid
        swapped = known.swapped.get(service)
        if swapped is None or self._clock.monotonic() >= swapped.used_until_s:
            swapped = known.swapped[service] = self._swaps.swapped(key, there, service, now_s)
        return swapped


def _remember(where: OrderedDict[bytes, V], digest: bytes, what: V, count_max: int) -> None:
    where[digest] = what
    where.move_to_end(digest)
    if len(where) > count_max:
        where.popitem(last=False)
