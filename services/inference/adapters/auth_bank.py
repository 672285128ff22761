"""The ledger of budgets, kept by the auth service."""

from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.auth.v1.quota_pb2 import QuotaAccount, QuotaAmount, QuotaGrant

from services.common.grpc.errors import DETAILS_KEY
from services.inference.core.budgets import MICRO, NOTHING, Amount, Grant, Payer, Refusal
from services.inference.errors import QuotaExceeded
from services.inference.ports import BankAway, ReservationLost

if TYPE_CHECKING:  # Known to type checkers only.
    from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

TIMEOUT_S = 2.0  # Whoever asks has a shorter one of their own.
_TOKEN_OVER = {"TOKEN_INVALID", "TOKEN_EXPIRED"}


class AuthBank:
    """Implements ports.Bank."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: AuthServiceAsyncStub = AuthServiceStub(channel)

    async def reserve(
        self,
        name: str,
        payer: Payer,
        *,
        needed: Amount,
        wanted: Amount = NOTHING,
        lease_s: float,
        token: str = "",
    ) -> Grant:
        request = pb.ReserveQuotaRequest(
            request_id=name, amount=_amount(needed), wanted=_amount(wanted), lease=_duration(lease_s)
        )
        if token:
            request.subject_token = token
            try:
                return _grant((await self._stub.ReserveQuota(request, timeout=TIMEOUT_S)).grant)
            except grpc.aio.AioRpcError as error:
                if _reason(error) not in _TOKEN_OVER:
                    raise _failure(error) from None
                # It was good when the request came, and has expired since: the work goes on.
        request.account.CopyFrom(
            QuotaAccount(
                organization_id=payer.organization_id,
                project_id=payer.project_id,
                api_key_id=payer.api_key_id,
            )
        )
        try:
            return _grant((await self._stub.ReserveQuota(request, timeout=TIMEOUT_S)).grant)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from None

    async def settle(
        self,
        name: str,
        used: Amount,
        *,
        lease_s: float | None = None,
        held: Amount = NOTHING,
        wanted: Amount = NOTHING,
    ) -> Grant | None:
        request = pb.SettleQuotaRequest(reservation_id=name, amount=_amount(used))
        if lease_s is not None:
            request.lease.CopyFrom(_duration(lease_s))
            request.held.CopyFrom(_amount(held))
            request.wanted.CopyFrom(_amount(wanted))
        try:
            answer = await self._stub.SettleQuota(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise ReservationLost from None
            raise _failure(error) from None
        return _grant(answer.grant) if answer.HasField("grant") else None


def _grant(grant: QuotaGrant) -> Grant:
    named = ("organization", "project", "api_key")
    fields = ((kind, f"{kind}_stream_count") for kind in named)
    refusal = None
    if grant.spent:
        refusal = Refusal(
            quota=grant.spent,
            limit=grant.spent_limit,
            retry_after_s=grant.spent_retry.ToTimedelta().total_seconds(),
        )
    return Grant(
        amount=Amount(
            grant.amount.token_count,
            round(grant.amount.gpu_seconds * MICRO),
            grant.amount.batch_item_count,
        ),
        limited=(grant.tokens_limited, grant.gpu_seconds_limited, grant.batch_items_limited),
        stream_limits={kind: getattr(grant, field) for kind, field in fields if grant.HasField(field)},
        refusal=refusal,
    )


def _failure(error: grpc.aio.AioRpcError) -> Exception:
    if _reason(error) != "QUOTA_EXCEEDED":
        return BankAway()
    facts, retry_after_s = _info(error).metadata, None
    for detail in _status(error).details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return QuotaExceeded(
        quota=facts.get("quota", ""), limit=facts.get("limit", ""), retry_after_s=retry_after_s
    )


def _reason(error: grpc.aio.AioRpcError) -> str:
    return str(_info(error).reason)


def _info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    found = ErrorInfo()
    for detail in _status(error).details:
        if detail.Unpack(found):
            break
    return found


def _status(error: grpc.aio.AioRpcError) -> Status:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return Status.FromString(value)
    return Status()


def _amount(amount: Amount) -> QuotaAmount:
    return QuotaAmount(
        token_count=max(0, amount.token_count),
        gpu_seconds=max(0, amount.gpu_us) / MICRO,
        batch_item_count=amount.batch_item_count,
    )


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made
