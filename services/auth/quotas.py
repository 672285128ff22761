"""Quotas: who may see and set them, and whose budgets a service draws on."""

import asyncio
import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

from services.auth.core.quotas import Account, Amount, Book, Kind, Limits, Subject
from services.auth.errors import NotFound, QuotaExceeded
from services.auth.founding import HOME
from services.auth.quota_metrics import QuotaMetrics
from services.auth.quota_ports import Ledger, Reservation, Settlement, Wish
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import RoleRequired, StoreFailure
from services.common.grpc.caller import Verifier
from services.common.tokens import Caller, Role

SWEEP_EVERY_S = 300.0


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits and what is left of them."""

    subject: Subject
    book: Book
    reset_time: dt.datetime


class Quotas:
    def __init__(
        self, ledger: Ledger, subjects: Mapping[str, Verifier], trail: Trail, metrics: QuotaMetrics
    ) -> None:
        """`subjects` read the tokens of those on whose behalf the service of that name asks."""
        self._ledger = ledger
        self._subjects = subjects
        self._trail = trail
        self._metrics = metrics

    async def get(self, known: Caller, subject: Subject) -> Quota:
        """Raises NotFound and StoreFailure."""
        if not await self._may_see(known, subject):
            raise NotFound(kind=subject.kind.value)
        return await self._found(subject)

    async def set(self, known: Caller, subject: Subject, limits: Limits) -> Quota:
        """Raises NotFound, RoleRequired, AuditUnavailable and StoreFailure."""
        if not await self._may_see(known, subject):
            raise NotFound(kind=subject.kind.value)
        if subject.kind is Kind.ORGANIZATION and known.organization_id != HOME:
            raise RoleRequired(role="admin of the founding organisation")
        wanted = {name: f"{value:g}" for name, value in asdict(limits).items() if value is not None}
        await self._trail.assure(
            Happened(
                action=Action.QUOTA_CHANGED,
                outcome=Outcome.ALLOWED,
                user_id=known.user_id,
                organization_id=subject.organization_id,
                object=f"{subject.kind.value}/{subject.subject_id}",
                details=wanted,
            )
        )
        await self._ledger.set_limits(subject, limits)
        return await self._found(subject)

    async def account_of(self, subject_token: str) -> Account:
        """Who pays for what the token's owner does. Raises TokenInvalid and TokenExpired."""
        known = await self._subjects["inference"].verify(subject_token)
        return Account(
            organization_id=known.organization_id,
            project_id=known.project_id,
            api_key_id=known.api_key_id or "",
        )

    async def reserve(self, reservation_id: str, account: Account, wish: Wish) -> Reservation:
        """Raises QuotaExceeded, RequestIdReused and StoreFailure."""
        with self._metrics.timed("reserve"):
            try:
                return await self._ledger.reserve(reservation_id, account, wish)
            except QuotaExceeded as error:
                self._metrics.refused(error.facts["quota"])
                raise

    async def settle(self, reservation_id: str, used: Amount, wish: Wish | None) -> Settlement:
        """Raises ReservationNotFound and StoreFailure."""
        with self._metrics.timed("settle"):
            return await self._ledger.settle(reservation_id, used, wish)

    async def run(self) -> None:
        """Forget what is long over, until cancelled."""
        while True:
            with suppress(StoreFailure):
                await self._ledger.sweep()
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _may_see(self, known: Caller, subject: Subject) -> bool:
        is_home_admin = known.role is Role.ADMIN and known.organization_id == HOME
        if subject.organization_id != known.organization_id and not is_home_admin:
            return False
        own = {known.organization_id, known.project_id, known.api_key_id}
        if known.role is not Role.ADMIN and subject.subject_id not in own:
            return False
        return await self._ledger.exists(subject)

    async def _found(self, subject: Subject) -> Quota:
        book, reset = await self._ledger.book(subject)
        return Quota(subject, book, reset)
