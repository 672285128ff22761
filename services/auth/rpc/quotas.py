"""Quotas over gRPC; decides nothing."""

import datetime as dt

from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1 import quota_pb2

from services.auth.core.quotas import MICRO, Account, Amount, Kind, Limits, Spent, Subject, retry_s
from services.auth.quota_ports import Reservation, Wish
from services.auth.quotas import Quota, Quotas
from services.common.grpc.around import Context
from services.common.grpc.caller import caller

_KINDS = {f"{kind.value}_id": kind for kind in Kind}
_LIMITS = tuple(quota_pb2.QuotaLimits.DESCRIPTOR.fields_by_name)


class QuotaMethods:
    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    async def GetQuota(self, request: pb.GetQuotaRequest, context: Context) -> pb.GetQuotaResponse:
        known = caller()
        subject = Subject(Kind.PROJECT, known.organization_id, known.project_id)
        if request.HasField("subject"):
            subject = _subject(request.subject, known.organization_id)
        return pb.GetQuotaResponse(quota=_quota(await self._quotas.get(known, subject)))

    async def SetQuota(self, request: pb.SetQuotaRequest, context: Context) -> pb.SetQuotaResponse:
        known = caller()
        subject, limits = _subject(request.subject, known.organization_id), _limits(request.limits)
        return pb.SetQuotaResponse(quota=_quota(await self._quotas.set(known, subject, limits)))

    async def ReserveQuota(
        self, request: pb.ReserveQuotaRequest, context: Context
    ) -> pb.ReserveQuotaResponse:
        wish = Wish(
            needed=_amount(request.amount),
            wanted=_amount(request.wanted),
            lease_s=request.lease.ToTimedelta().total_seconds(),
        )
        if request.WhichOneof("whose") == "account":
            account = Account(
                organization_id=request.account.organization_id,
                project_id=request.account.project_id,
                api_key_id=request.account.api_key_id,
            )
        else:
            account = await self._quotas.account_of(request.subject_token)
        reserved = await self._quotas.reserve(request.request_id, account, wish)
        return pb.ReserveQuotaResponse(reservation_id=request.request_id, grant=_grant(reserved))

    async def SettleQuota(self, request: pb.SettleQuotaRequest, context: Context) -> pb.SettleQuotaResponse:
        wish = None
        if request.HasField("lease"):
            wish = Wish(
                needed=_amount(request.held),
                wanted=_amount(request.wanted),
                lease_s=request.lease.ToTimedelta().total_seconds(),
            )
        settled = await self._quotas.settle(request.reservation_id, _amount(request.amount), wish)
        if settled.reservation is None:
            return pb.SettleQuotaResponse()
        return pb.SettleQuotaResponse(grant=_grant(settled.reservation, spent=settled.spent))


def _subject(subject: quota_pb2.QuotaSubject, organization_id: str) -> Subject:
    """An organisation is named by itself; anything else is one of the caller's own."""
    field = subject.WhichOneof("kind")
    assert field is not None, "the proto's rules want one"
    kind, subject_id = _KINDS[field], str(getattr(subject, field))
    return Subject(kind, subject_id if kind is Kind.ORGANIZATION else organization_id, subject_id)


def _limits(limits: quota_pb2.QuotaLimits) -> Limits:
    return Limits(**{name: getattr(limits, name) for name in _LIMITS if limits.HasField(name)})


def _amount(amount: quota_pb2.QuotaAmount) -> Amount:
    return Amount(amount.token_count, round(amount.gpu_seconds * MICRO), amount.batch_item_count)


def _told(amount: Amount) -> quota_pb2.QuotaAmount:
    return quota_pb2.QuotaAmount(
        token_count=amount.token_count,
        gpu_seconds=amount.gpu_us / MICRO,
        batch_item_count=amount.batch_item_count,
    )


def _grant(reserved: Reservation, *, spent: Spent | None = None) -> quota_pb2.QuotaGrant:
    tokens, gpu_seconds, batch_items = reserved.limited
    grant = quota_pb2.QuotaGrant(
        amount=_told(reserved.amount),
        tokens_limited=tokens,
        gpu_seconds_limited=gpu_seconds,
        batch_items_limited=batch_items,
        organization_stream_count=reserved.streams.get(Kind.ORGANIZATION),
        project_stream_count=reserved.streams.get(Kind.PROJECT),
        api_key_stream_count=reserved.streams.get(Kind.API_KEY),
    )
    if spent is not None:
        grant.spent, grant.spent_limit = spent.quota, f"{spent.limit:g}"
        reset_s = (reserved.reset_time - dt.datetime.now(dt.UTC)).total_seconds()
        grant.spent_retry.FromMilliseconds(round(retry_s(spent, reset_s=max(0.0, reset_s)) * 1000))
    grant.expire_time.FromDatetime(reserved.expire_time)
    grant.reset_time.FromDatetime(reserved.reset_time)
    return grant


def _quota(quota: Quota) -> quota_pb2.Quota:
    subject = quota_pb2.QuotaSubject(**{f"{quota.subject.kind.value}_id": quota.subject.subject_id})
    limits = {name: value for name in _LIMITS if (value := getattr(quota.book.limits, name)) is not None}
    reset = Timestamp()
    reset.FromDatetime(quota.reset_time)
    return quota_pb2.Quota(
        subject=subject,
        limits=quota_pb2.QuotaLimits(**limits),
        used=_told(quota.book.used),
        reserved=_told(quota.book.reserved),
        reset_time=reset,
    )
