"""Request rates through a real Envoy, as two auth replicas count them in a real Redis, and without it."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import grpc.aio
import pytest
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.quota_pb2 import QuotaLimits, QuotaSubject

from services.auth import rates
from services.auth.quota_config import QuotaConfig
from services.auth.rates import Rates
from services.common.grpc.client import bearer
from tests.service import auth_app, edge_app
from tests.service.auth_app import ADMIN_PASSWORD, TIMEOUT_S, Auth, failure, info, retry_after_s
from tests.service.edge_app import GET_FLEET, START_RUN, Stack
from tests.stack import Database, OwnRedis, own_redis

RATE, BURST = 10, 20  # So the window has two seconds.
LIMITED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
HOME = "default"


@dataclass(slots=True)
class Mesh:
    stack: Stack
    auths: list[Auth]
    running: AsyncExitStack  # Of the replicas of auth.
    redis: OwnRedis
    token: str

    async def limit(self, **limits: float) -> None:
        """Set the project's, and wait until both replicas have seen it."""
        auth = self.auths[0]
        login = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
        admin = (await auth.service.Login(login, timeout=TIMEOUT_S)).tokens.access_token
        request = pb.SetQuotaRequest(subject=QuotaSubject(project_id=HOME), limits=QuotaLimits(**limits))  # type: ignore[arg-type]
        await auth.service.SetQuota(request, timeout=TIMEOUT_S, metadata=bearer(admin))
        await asyncio.sleep(4.5)  # rates.py and rates.lua keep what they know for two seconds each.

    async def ask(self, path: str = GET_FLEET) -> str:
        """Make a call; return what became of it."""
        try:
            await self.stack.unary(path)(b"", metadata=bearer(self.token), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            code, reason = failure(error)
            return "limited" if (code, reason) == LIMITED else f"{code} {reason}"
        return "served"

    async def steadily(self, *, per_s: float, for_s: float) -> tuple[Counter[str], list[float]]:
        """Ask at a rate, whatever comes of it; return what did, and how long each took."""
        now_s = asyncio.get_running_loop().time
        began_s, took_s = now_s(), []

        async def one(place: int) -> str:
            await asyncio.sleep(max(0.0, began_s + place / per_s - now_s()))
            asked_s = now_s()
            found = await self.ask()
            took_s.append(now_s() - asked_s)
            return found

        results = await asyncio.gather(*(one(place) for place in range(round(per_s * for_s))))
        return Counter(results), sorted(took_s)


@asynccontextmanager
async def mesh(database: Database, *, redis_timeout_s: float = 0.04, **more: str) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as opened:
        redis = opened.enter_context(own_redis())
        quotas = QuotaConfig(redis_url=redis.url, redis_timeout_s=redis_timeout_s, replica_count=2)
        config = replace(auth_app.config(database("auth")), quotas=quotas)
        running = await opened.enter_async_context(AsyncExitStack())
        auths = [await running.enter_async_context(auth_app.serving(config)) for _ in range(2)]
        services = {name: await opened.enter_async_context(edge_app.replica()) for name in edge_app.NAMES}
        ports: Mapping[str, tuple[int, ...]] = {name: (one.port,) for name, one in services.items()}
        ports = {**ports, "auth": tuple(auth.port for auth in auths)}
        stack = await opened.enter_async_context(
            edge_app.serving(edge_app.settings(auths[0].port, ports, **more))
        )
        token = await stack.token()
        await edge_app.until_keys_are_known(stack, GET_FLEET, token)
        yield Mesh(stack, auths, running, redis, token)


@pytest.fixture
async def known(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    """One that waits for auth and its stores, as long as a busy machine takes: what it counts is exact."""
    monkeypatch.setattr(rates, "LIMITS_S_MAX", 5.0)
    async with mesh(database, redis_timeout_s=1.0, OLLAMESH_EDGE_RATES_TIMEOUT_S="5") as made:
        yield made


@pytest.fixture
async def patient(database: Database) -> AsyncIterator[Mesh]:
    """One that waits for auth, but not for Redis."""
    async with mesh(database, OLLAMESH_EDGE_RATES_TIMEOUT_S="5") as made:
        yield made


@pytest.fixture
async def brisk(database: Database) -> AsyncIterator[Mesh]:
    """One that does not."""
    async with mesh(database) as made:
        yield made


async def test_a_burst_and_a_rate_hold_over_two_replicas(known: Mesh) -> None:
    await known.limit(requests_per_second=RATE, request_burst_count=BURST)
    began_s = asyncio.get_running_loop().time()
    at_once = Counter(await asyncio.gather(*(known.ask() for _ in range(3 * BURST))))
    lasted_s = asyncio.get_running_loop().time() - began_s
    assert set(at_once) == {"served", "limited"}
    assert BURST <= at_once["served"] <= BURST + RATE * lasted_s
    await asyncio.sleep(BURST / RATE + 0.1)
    served = (await known.steadily(per_s=3 * RATE, for_s=6))[0]["served"]
    assert served == pytest.approx(6 * RATE + BURST, abs=BURST)  # A window moves: it may begin full or empty.
    assert served <= (6 + BURST / RATE) * RATE * 1.03


async def test_callers_are_told_when_to_come_again(known: Mesh) -> None:
    await known.limit(requests_per_second=0.02)
    assert await known.ask() == "served"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await known.stack.unary(START_RUN)(b"", metadata=bearer(known.token), timeout=TIMEOUT_S)
    told = info(refused.value)
    assert (told.domain, told.reason) == ("agent.ollamesh", "RATE_LIMITED")
    assert told.metadata == {"quota": "project.requests_per_second", "limit": "1", "window_s": "50"}
    assert 0 < (retry_after_s(refused.value) or 0) <= 50
    headers = {"authorization": f"Bearer {known.token}", "x-org": "another", "x-ollamesh-limited": "no"}
    for path, body in (
        ("/api/chat", {"error": "too many requests; wait before the next one"}),
        (
            "/v1/chat/completions",
            {
                "error": {
                    "message": "too many requests; wait before the next one",
                    "type": "requests",
                    "param": None,
                    "code": "rate_limit_exceeded",
                }
            },
        ),
    ):
        async with known.stack.http.post(f"{known.stack.url}{path}", json={}, headers=headers) as answer:
            assert answer.status == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 50
            assert answer.headers["x-ratelimit-limit"] == "1"
            assert answer.headers["x-ratelimit-remaining"] == "0"
            assert answer.headers["x-ratelimit-reset"] == answer.headers["retry-after"]
            assert "grpc-status-details-bin" not in answer.headers
            assert await answer.json() == body


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.timed
async def test_without_redis_each_replica_counts_its_share(patient: Mesh, how: signal.Signals) -> None:
    await patient.limit(requests_per_second=RATE, request_burst_count=BURST)
    calm = (await patient.steadily(per_s=RATE / 2, for_s=2))[1]
    patient.redis.signal(how)
    try:
        outcomes, took_s = await patient.steadily(per_s=RATE / 2, for_s=4)
        assert outcomes == {"served": 2 * RATE}  # Nobody within their limit is refused, and nobody fails.
        # Three questions of 40 ms, then none: with a machine to itself, p99 is within 50 ms.
        assert took_s[int(len(took_s) * 0.99) - 1] - calm[len(calm) // 2] <= 0.5
        served = (await patient.steadily(per_s=3 * RATE, for_s=4))[0]["served"]
        assert served <= 4 * RATE + BURST * 1.05
        assert served >= 4 * RATE * 0.8
    finally:
        if how is signal.SIGSTOP:
            patient.redis.signal(signal.SIGCONT)


async def test_it_is_counted_together_again_when_redis_is_back(known: Mesh) -> None:
    await known.limit(requests_per_second=RATE, request_burst_count=BURST)
    known.redis.signal(signal.SIGSTOP)
    await known.steadily(per_s=RATE / 2, for_s=1)
    known.redis.signal(signal.SIGCONT)
    await asyncio.sleep(2)  # Of the five that it may take.
    began_s = asyncio.get_running_loop().time()
    served = Counter(await asyncio.gather(*(known.ask() for _ in range(3 * BURST))))["served"]
    lasted_s = asyncio.get_running_loop().time() - began_s
    # Two shares would come to as much, but not evenly: this is one count.
    assert BURST * 0.5 <= served <= BURST + RATE * lasted_s


@pytest.mark.timed
async def test_without_auth_nobody_is_refused_and_few_wait(brisk: Mesh) -> None:
    await brisk.limit(requests_per_second=0)
    assert await brisk.ask() == "limited"
    await brisk.running.aclose()
    outcomes, took_s = await brisk.steadily(per_s=20, for_s=3)
    assert outcomes == {"served": 60}
    assert sum(took >= 0.2 for took in took_s) <= 15


async def test_an_auth_that_hangs_delays_few(brisk: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_count = 0

    async def hang(*_: object) -> None:
        nonlocal asked_count
        asked_count += 1
        await asyncio.Event().wait()

    await brisk.limit(requests_per_second=RATE)
    monkeypatch.setattr(Rates, "check", hang)
    outcomes, _ = await brisk.steadily(per_s=30, for_s=4)
    assert outcomes == {"served": 120}
    # Those that came before five were known to have waited in vain, then one a second.
    assert asked_count <= 60
