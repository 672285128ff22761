"""Signing keys followed by others: on schedule, by command, in an emergency; and sealed anew, and forgotten.

Every replica keeps time and any may act: the store lets one at a time decide, from what is there by then. So two that
find a rotation due make one key, and a command that comes twice makes one too.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog

from services.auth.core.keys import Term
from services.auth.core.rotation import LEAD_S, Plan, due, emergency, planned
from services.auth.keyring import Keyring
from services.auth.ports import Locksmith
from services.auth.revocations import Revocations
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import MeshError, StoreFailure

log = structlog.get_logger(__name__)

RELOAD_EVERY_S = 15.0  # How late a replica learns what another did when it does not hear the bell.
FORGET_EVERY_S = 3600.0

# From what is there: a plan, and the new key, sealed; None: nothing is to be done.
Decision: TypeAlias = Callable[[Sequence[Term]], tuple[Plan, bytes] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A request that has the same outcome when it comes again. Raises RequestIdReused if it asks for another."""

    request_id: str
    emergency: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    key_id: str
    active_from_s: float
    is_new: bool  # Else it was there: by the same request, or because one at a time is enough.


class SigningKeys(Protocol):
    """The keys in the store. Every method raises StoreFailure when it does not answer in time."""

    async def rotate(self, decide: Decision, *, named: Named | None) -> Rotated | None:
        """Do what `decide` makes of the keys that are there, and let nobody else do so meanwhile."""
        ...

    async def reseal(self, key_id: str, *, old: bytes, new: bytes) -> None:
        """Do nothing if it is no longer sealed as `old`."""
        ...

    async def forget(self, now_s: float) -> None:
        """Drop keys that can verify nothing any more, with their private halves."""
        ...


class Rotation:
    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        store: SigningKeys,
        keyring: Keyring,
        locksmith: Locksmith,
        revocations: Revocations,
        trail: Trail,
        *,
        every_s: float,
        lead_s: float = LEAD_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`every_s` 0: only by command."""
        self._store, self._keyring, self._locksmith = store, keyring, locksmith
        self._revocations, self._trail = revocations, trail
        self._every_s, self._lead_s, self._clock = every_s, lead_s, clock
        self._bell = asyncio.Event()
        self._forgotten_at_s = float("-inf")

    def ring(self) -> None:
        """Say that the keys in the store have changed."""
        self._bell.set()

    async def rotate(self, happened: Happened, *, emergency: bool, request_id: str) -> Rotated:
        """Make a new key, whoever asks. Raises AuditUnavailable, RequestIdReused, StoreFailure."""
        await self._trail.assure(happened)
        named = Named(request_id=request_id, emergency=emergency) if request_id else None
        rotated = await self._store.rotate(self._emergency if emergency else self._planned, named=named)
        assert rotated is not None  # Those two always decide.
        log.info("signing_key_rotated", key_id=rotated.key_id, emergency=emergency, is_new=rotated.is_new)
        with suppress(StoreFailure):  # The next round will do.
            await self._keyring.load()
            if emergency:
                await self._revocations.catch_up()
        return rotated

    async def follow(self) -> None:
        """Keep the keyring in step with the store, and the store with time, for as long as the service runs."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RELOAD_EVERY_S):
                    await self._bell.wait()
            self._bell.clear()
            with suppress(StoreFailure):
                await self.step()

    async def step(self) -> None:
        """One round. Raises StoreFailure."""
        await self._keyring.load()
        for stored in self._keyring.stored:
            if (sealed := self._locksmith.resealed(stored.sealed)) is not None:
                await self._store.reseal(stored.term.key_id, old=stored.sealed, new=sealed)
                log.info("signing_key_resealed", key_id=stored.term.key_id)
        if self._is_due(self._keyring.terms):
            await self._rotate_on_schedule()
        if self._clock() - self._forgotten_at_s >= FORGET_EVERY_S:
            await self._store.forget(self._clock())
            self._forgotten_at_s = self._clock()

    async def _rotate_on_schedule(self) -> None:
        try:
            rotated = await self._store.rotate(self._scheduled, named=None)
        except MeshError as error:
            self._trail.note(_on_schedule(Outcome.FAILED, reason=error.reason))
            raise
        if rotated is not None and rotated.is_new:
            log.info("signing_key_rotated", key_id=rotated.key_id, emergency=False, is_new=True)
            self._trail.note(_on_schedule(Outcome.ALLOWED, key_id=rotated.key_id))
        await self._keyring.load()

    def _scheduled(self, terms: Sequence[Term]) -> tuple[Plan, bytes] | None:
        return self._planned(terms) if self._is_due(terms) else None  # Another replica may have been first.

    def _planned(self, terms: Sequence[Term]) -> tuple[Plan, bytes]:
        key_id, sealed = self._locksmith.make()
        return planned(terms, key_id, self._clock(), lead_s=self._lead_s), sealed

    def _emergency(self, terms: Sequence[Term]) -> tuple[Plan, bytes]:
        key_id, sealed = self._locksmith.make()
        return emergency(terms, key_id, self._clock()), sealed

    def _is_due(self, terms: Sequence[Term]) -> bool:
        return due(terms, self._clock(), every_s=self._every_s, lead_s=self._lead_s)


def _on_schedule(outcome: Outcome, *, key_id: str = "", reason: str = "") -> Happened:
    return Happened(
        action=Action.SIGNING_KEY_ROTATED,
        outcome=outcome,
        object=f"signing_key/{key_id}",
        reason=reason,
        details={"by": "schedule"},
    )
