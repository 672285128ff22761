"""Quotas as Python values: limits of an organisation, a project or a key, and what is left of them.

quota = await quotas.get(client, "project", "default")
await quotas.set_limits(client, "project", "default", {"tokens_per_day": 1_000_000})
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from ollamesh.auth.v1 import quota_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2 import GetQuotaRequest, SetQuotaRequest
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.client.values import time

if TYPE_CHECKING:
    from ollamesh.client.client import Client

Kind = Literal["organization", "project", "api_key"]
LIMITS = tuple(pb.QuotaLimits.DESCRIPTOR.fields_by_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What work costs."""

    token_count: int
    gpu_seconds: float
    batch_item_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Limits by their names; what is not among them is unlimited."""

    kind: str
    subject_id: str
    limits: Mapping[str, float]
    used: Amount  # Today.
    reserved: Amount  # For work under way.
    reset_time: datetime | None  # When the day's budgets start anew.


async def get(client: "Client", kind: Kind | None = None, subject_id: str = "") -> Quota:
    """Tell limits and what is left of them: of the caller's project if nothing is named."""
    request = GetQuotaRequest()
    if kind is not None:
        request.subject.CopyFrom(subject_of(kind, subject_id))
    return quota_of((await client.call(client.stub(AuthServiceStub).GetQuota, request)).quota)


async def set_limits(client: "Client", kind: Kind, subject_id: str, limits: Mapping[str, float]) -> Quota:
    """Set all limits: what is not named is unlimited. Role: admin."""
    request = SetQuotaRequest(subject=subject_of(kind, subject_id), limits=limits_of(limits))
    return quota_of((await client.call(client.stub(AuthServiceStub).SetQuota, request)).quota)


def subject_of(kind: Kind, subject_id: str) -> pb.QuotaSubject:
    return pb.QuotaSubject(**{f"{kind}_id": subject_id})


def limits_of(limits: Mapping[str, float]) -> pb.QuotaLimits:
    """Raises ValueError for a limit that does not exist, or that no number of its kind can be."""
    made = pb.QuotaLimits()
    for name, value in limits.items():
        if name not in LIMITS:
            raise ValueError(f"no limit is called {name!r}")
        try:
            setattr(made, name, value)
        except TypeError:
            raise ValueError(f"{name} is a whole number") from None
    return made


def quota_of(message: pb.Quota) -> Quota:
    kind = message.subject.WhichOneof("kind") or ""
    return Quota(
        kind=kind.removesuffix("_id"),
        subject_id=getattr(message.subject, kind, ""),
        limits={name: getattr(message.limits, name) for name in LIMITS if message.limits.HasField(name)},
        used=_amount(message.used),
        reserved=_amount(message.reserved),
        reset_time=time(message.reset_time),
    )


def _amount(amount: pb.QuotaAmount) -> Amount:
    return Amount(
        token_count=amount.token_count,
        gpu_seconds=amount.gpu_seconds,
        batch_item_count=amount.batch_item_count,
    )
