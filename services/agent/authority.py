"""What a run acts with: first its caller's own token, then what a mandate gives.

The mandate is made while the run is being accepted, so that its first step waits for nothing, and is stored for whoever
goes on with the run. It ends with the run.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from services.agent.core.ids import Owner
from services.agent.errors import AccessEnded, LeaseLost
from services.agent.leases import Lease, Leases
from services.agent.patience import patiently
from services.agent.ports import Access, Mandates
from services.common.errors import AuthUnavailable, MeshError

log = structlog.get_logger(__name__)

LIFETIME_S = 86_400.0  # Of a mandate: as long as a run may wait for a person. Its end comes with the run's.
FRESH_S = 20.0  # A token that lives no longer is replaced before it is used.
PAUSE_MIN_S, PAUSE_MAX_S = 0.2, 5.0
MAKE_S_MAX = 60.0


class Authority:
    """One run's. `end` or `leave` it, whatever becomes of the run here."""

    def __init__(
        self,
        mandates: Mandates,
        *,
        clock: Callable[[], float],
        access: Access | None = None,
        mandate: str | None = None,
    ) -> None:
        self._mandates, self._clock = mandates, clock
        self._access, self._mandate = access, mandate
        self._one_at_a_time = asyncio.Lock()
        self._making: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # There is a mandate, or there will be none.
        if access is None:
            self._settled.set()

    def establish(
        self, tasks: asyncio.TaskGroup, accepted: asyncio.Future[Lease | None], owner: Owner, leases: Leases
    ) -> None:
        """Begin to have a mandate; it is kept for others once the run is accepted, unless nothing was."""
        self._making = tasks.create_task(self._establish(accepted, owner, leases))

    async def _establish(self, accepted: asyncio.Future[Lease | None], owner: Owner, leases: Leases) -> None:
        try:
            self._mandate = mandate = await self._made()
            lease = await accepted
            if mandate is not None and lease is not None:
                await patiently(lambda: leases.keep_mandate(lease, owner, mandate), for_s=MAKE_S_MAX)
            elif lease is None:
                await self._end()
        except LeaseLost:
            pass  # It has ended, or others have it.
        finally:
            self._settled.set()

    async def token(self) -> str:
        """To act with, now. Waits for an auth service that is away. Raises AccessEnded."""
        async with self._one_at_a_time:
            if self._access is None or self._access.expire_time_s - self._clock() < FRESH_S:
                self._access = await self._redeemed()
            return self._access.token

    async def has_ended(self) -> bool:
        """Whether nobody can be acted for any more. Asked when a token was refused before its time."""
        if self._mandate is None:
            return True
        self._access = None
        try:
            await self.token()
        except AccessEnded:
            return True
        return False

    async def settled(self, *, for_s: float = MAKE_S_MAX) -> None:
        """Wait until whoever goes on with the run has what it needs, as far as it can have."""
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._settled.wait()

    def leave(self) -> None:
        """The run is others' now."""
        if self._making is not None:
            self._making.cancel()

    async def end(self) -> None:
        """The run has ended: nobody need act for it any more."""
        await self.settled()
        self.leave()
        await self._end()

    async def _end(self) -> None:
        if self._mandate is not None:
            try:
                await self._mandates.end(self._mandate)
            except MeshError as error:
                log.warning("mandate_not_ended", reason=error.reason)  # It expires by itself.

    async def _made(self) -> str | None:
        assert self._access is not None
        pause_s = PAUSE_MIN_S
        give_up_s = min(self._access.expire_time_s, self._clock() + MAKE_S_MAX)
        while True:
            try:
                return await self._mandates.create(self._access.token, lifetime_s=LIFETIME_S)
            except AuthUnavailable:
                if self._clock() + pause_s >= give_up_s:
                    return None
            except (AccessEnded, MeshError):
                return None  # The token gives no such right: the run lasts as long as it does.
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _redeemed(self) -> Access:
        await self._settled.wait()
        if self._mandate is None:
            if self._access is None or self._access.expire_time_s <= self._clock():
                raise AccessEnded
            return self._access
        pause_s = PAUSE_MIN_S
        while True:  # As long as the run may take.
            try:
                return await self._mandates.redeem(self._mandate)
            except AuthUnavailable:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
