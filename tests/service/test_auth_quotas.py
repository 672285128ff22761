"""Quotas over a real socket and a real database: who may see and set them, and what services reserve and settle."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_USER
from ollamesh.auth.v1.quota_pb2 import QuotaAccount, QuotaAmount, QuotaLimits, QuotaSubject

from services.common.grpc.client import bearer
from tests.service.auth_app import (
    ADMIN_PASSWORD,
    TIMEOUT_S,
    Auth,
    config,
    failure,
    info,
    retry_after_s,
    serving,
)
from tests.stack import Database

HOME = "default"


@pytest.fixture
async def auth(database: Database) -> AsyncIterator[Auth]:
    async with serving(config(database("auth"))) as auth:
        yield auth


async def token(auth: Auth, *, role: int = 0) -> str:
    request = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD, role=role)  # type: ignore[arg-type]
    return (await auth.service.Login(request, timeout=TIMEOUT_S)).tokens.access_token


async def set_quota(auth: Auth, subject: QuotaSubject, **limits: float) -> pb.SetQuotaResponse:
    request = pb.SetQuotaRequest(subject=subject, limits=QuotaLimits(**limits))  # type: ignore[arg-type]
    return await auth.service.SetQuota(request, timeout=TIMEOUT_S, metadata=bearer(await token(auth)))


def reserve(auth: Auth, name: str, tokens: int, *, subject_token: str = "", wanted: int = 0) -> object:
    request = pb.ReserveQuotaRequest(
        request_id=name,
        amount=QuotaAmount(token_count=tokens),
        wanted=QuotaAmount(token_count=wanted),
        lease=Duration(seconds=60),
    )
    if subject_token:
        request.subject_token = subject_token
    else:
        request.account.CopyFrom(QuotaAccount(organization_id=HOME, project_id=HOME))
    return auth.service.ReserveQuota(request, timeout=TIMEOUT_S)  # And no token of the caller's.


async def test_what_is_set_is_shown(auth: Auth) -> None:
    subject = QuotaSubject(project_id=HOME)
    made = (await set_quota(auth, subject, tokens_per_day=1000, gpu_seconds_per_day=2.5)).quota
    shown = await auth.service.GetQuota(
        pb.GetQuotaRequest(), timeout=TIMEOUT_S, metadata=bearer(await token(auth, role=ROLE_USER))
    )
    assert shown.quota == made
    assert (made.subject, made.limits.tokens_per_day, made.limits.gpu_seconds_per_day) == (subject, 1000, 2.5)
    assert not made.limits.HasField("requests_per_second")
    assert made.reset_time.seconds % 86_400 == 0


async def test_a_service_reserves_for_the_owner_of_a_token_and_settles(auth: Auth) -> None:
    await set_quota(auth, QuotaSubject(organization_id=HOME), tokens_per_day=100, concurrent_stream_count=3)
    made = await reserve(auth, "r1", 80, subject_token=await token(auth))  # type: ignore[misc]
    assert made.grant.amount.token_count == 80
    assert made.grant.tokens_limited
    assert not made.grant.gpu_seconds_limited
    assert made.grant.organization_stream_count == 3
    assert not made.grant.HasField("api_key_stream_count")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await reserve(auth, "r2", 30)  # type: ignore[misc]
    assert failure(refused.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert info(refused.value).metadata == {"quota": "organization.tokens_per_day", "limit": "100"}
    assert retry_after_s(refused.value) == pytest.approx(5.0, abs=5.0)
    settle = pb.SettleQuotaRequest(reservation_id="r1", amount=QuotaAmount(token_count=20))
    assert not (await auth.service.SettleQuota(settle, timeout=TIMEOUT_S)).HasField("grant")
    shown = await auth.service.GetQuota(
        pb.GetQuotaRequest(), timeout=TIMEOUT_S, metadata=bearer(await token(auth))
    )
    assert shown.quota.used.token_count == 20
    assert shown.quota.reserved.token_count == 0


async def test_who_is_no_admin_sets_nothing_and_sees_their_own(auth: Auth) -> None:
    user = bearer(await token(auth, role=ROLE_USER))
    request = pb.SetQuotaRequest(subject=QuotaSubject(project_id=HOME), limits=QuotaLimits())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await auth.service.SetQuota(request, timeout=TIMEOUT_S, metadata=user)
    assert failure(refused.value) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    for subject in (
        QuotaSubject(organization_id="another"),
        QuotaSubject(project_id="another"),
        QuotaSubject(api_key_id="another"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await auth.service.GetQuota(pb.GetQuotaRequest(subject=subject), timeout=TIMEOUT_S, metadata=user)
        assert failure(refused.value) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_what_does_not_exist_has_no_limits(auth: Auth) -> None:
    for subject in (QuotaSubject(organization_id="nobody"), QuotaSubject(project_id="nothing")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await set_quota(auth, subject, tokens_per_day=1)
        assert failure(refused.value) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_token_that_is_none_pays_for_nothing(auth: Auth) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await reserve(auth, "r1", 1, subject_token="forged")  # type: ignore[misc]
    assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
