"""R5, the audit's half: the auth service's PostgreSQL goes away. Who has a token is served as before, logins are refused at
once, what happens meanwhile waits on disk, and when the store is back the chain has all of it once, and is whole.

OLLAMESH_CHAOS_FAULT_S is for how long; `make chaos` takes the 30 s of the requirement.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from ollamesh.auth.v1 import audit_pb2
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.inference.v1 import model_pb2

from services.common.auditing.config import AuditConfig
from tests.chaos.knobs import FAULT_S
from tests.fakes.fake_ollama import FakeOllama
from tests.fakes.identity import Identity
from tests.fakes.severable import Severable
from tests.service.auth_app import ADMIN_PASSWORD, TIMEOUT_S, Auth, config, failure, port_of, serving
from tests.service.inference_app import TINY, Service, refused, serving_for
from tests.service.test_auth_audit import listed, verified
from tests.stack import Database

REFUSED_WITHIN_S = 2.5
LOGIN = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)


class Known(Identity):
    """Whom a real auth service knows, by a token of its."""

    def __init__(self, auth: Auth, token: str) -> None:
        super().__init__()
        self._auth, self._token = auth, token

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        yield f"127.0.0.1:{self._auth.port}"

    def token(self, **_who: Any) -> str:
        return self._token


async def login_is_refused_at_once(auth: Auth) -> None:
    began_s = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await auth.service.Login(LOGIN, timeout=TIMEOUT_S)
    assert failure(error.value) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert time.monotonic() - began_s <= REFUSED_WITHIN_S


async def answers(service: Service) -> int:
    count = 0
    async for _ in service.chat():
        count += 1
    return count


@pytest.mark.timeout(120 + 2 * FAULT_S)
@pytest.mark.timed
async def test_without_its_database_nothing_is_forgotten_and_who_has_a_token_is_served(
    database: Database, tmp_path: Path
) -> None:
    dsn = database("auth")
    async with Severable.to(port_of(dsn)) as cable:
        settings = replace(
            config(dsn.replace(f":{port_of(dsn)}/", f":{cable.port}/")), audit=AuditConfig(spool=tmp_path)
        )
        async with serving(settings) as auth, FakeOllama(TINY, parallel=8) as fake:
            token = (await auth.service.Login(LOGIN, timeout=TIMEOUT_S)).tokens.access_token
            knobs = {"audit_spool": str(tmp_path)}
            async with serving_for(Known(auth, token), fake.url, **knobs) as service:
                acts = await _meanwhile(auth, cable, service, fake)
                await _all_of_it_is_told_once(auth, acts)


async def _meanwhile(auth: Auth, cable: Severable, service: Service, fake: FakeOllama) -> int:
    """Cut the store off; return how many administrative acts were done meanwhile."""
    for _ in range(1000):
        fake.script("a", "b")
    assert await answers(service)
    await cable.cut()
    acts, end_s = 0, time.monotonic() + FAULT_S
    while time.monotonic() < end_s:
        assert await answers(service), "whoever has a token is served"
        await login_is_refused_at_once(auth)
        missing = await refused(service.call("DeleteModel", model_pb2.DeleteModelRequest(model=f"no-{acts}")))
        assert missing.reason == "MODEL_NOT_FOUND", "the act was recorded on disk, and went on"
        acts += 1
    await cable.mend()
    return acts


async def _all_of_it_is_told_once(auth: Auth, acts: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                found = await listed(auth, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED)
            except grpc.aio.AioRpcError:
                found = []
            if len(found) >= acts:
                break
            await asyncio.sleep(0.1)
    assert [each.object for each in found] == [f"model/no-{number}" for number in range(acts)]
    report = await verified(auth)
    assert report.intact, report.problem
