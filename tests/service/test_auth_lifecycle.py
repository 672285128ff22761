"""The service among other parts: two replicas, a store that goes and comes, its process and its logs."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from cryptography.fernet import Fernet
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ollamesh.auth.v1 import auth_service_pb2 as pb

from deploy.local.ports import free_ports
from services.common.tokens import verify
from tests.fakes.severable import Severable
from tests.service.auth_app import (
    ADMIN_PASSWORD,
    CLIENT_SECRET,
    ISSUER,
    TIMEOUT_S,
    Auth,
    config,
    failure,
    port_of,
    retry_after_s,
    serving,
    until_founded,
)
from tests.stack import Database

LOGIN = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(auth: Auth, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(auth.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
    status: int = answer.status
    return status


async def until(auth: Auth, status: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while await health(auth) != status:
            await asyncio.sleep(0.05)


async def test_replicas_that_start_at_once_agree_on_everything(database: Database) -> None:
    settings = config(database("auth"))
    async with contextlib.AsyncExitStack() as opened:
        replicas = await asyncio.gather(*(opened.enter_async_context(serving(settings)) for _ in range(3)))
        keys = [set(await replica.keys()) for replica in replicas]
        assert len(keys[0]) == 1
        assert keys[1:] == keys[:-1]
        tokens = (await replicas[0].service.Login(LOGIN, timeout=TIMEOUT_S)).tokens
        now_s = tokens.expire_time.ToSeconds() - 1
        for replica in replicas:
            verify(tokens.access_token, await replica.keys(), issuer=ISSUER, audience="auth", now_s=now_s)


async def test_a_restart_changes_neither_the_key_nor_a_password(database: Database) -> None:
    settings = config(database("auth"))
    async with serving(settings) as first:
        before = set(await first.keys())
    async with serving(settings) as second:
        assert set(await second.keys()) == before
        await second.service.Login(LOGIN, timeout=TIMEOUT_S)


async def test_keys_sealed_with_another_key_are_neither_used_nor_replaced(database: Database) -> None:
    async with serving(config(database("auth"))):
        pass
    stranger = config(database("auth"), encryption_key=Fernet.generate_key().decode())
    async with serving(stranger, wait=False) as auth:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await auth.service.Login(LOGIN, timeout=TIMEOUT_S)
        assert failure(refused.value) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert await health(auth) == NOT_SERVING


@contextlib.asynccontextmanager
async def behind_a_cable(database: Database) -> AsyncIterator[tuple[str, Severable]]:
    dsn = database("auth")
    async with Severable.to(port_of(dsn)) as cable:
        yield dsn.replace(f":{port_of(dsn)}/", f":{cable.port}/"), cable


async def test_without_its_store_it_says_so_and_still_publishes_its_keys(database: Database) -> None:
    async with behind_a_cable(database) as (dsn, cable), serving(config(dsn)) as auth:
        await until(auth, SERVING)
        keys = set(await auth.keys())
        await cable.cut()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await auth.service.Login(LOGIN, timeout=TIMEOUT_S)
        assert failure(refused.value) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert (retry_after_s(refused.value) or 0) > 0
        await until(auth, NOT_SERVING)
        assert await health(auth, "liveness") == SERVING
        assert set(await auth.keys()) == keys
        await cable.mend()
        await until(auth, SERVING)
        await auth.service.Login(LOGIN, timeout=TIMEOUT_S)


async def test_it_may_start_before_its_store(database: Database) -> None:
    async with behind_a_cable(database) as (dsn, cable):
        await cable.cut()
        async with serving(config(dsn), wait=False) as auth:
            assert await health(auth) == NOT_SERVING
            await cable.mend()
            await until_founded(auth)
            await until(auth, SERVING)


def environment(database: Database, port: int) -> Mapping[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database("auth"),
        "SECRET_KEY": "pepper-pepper-pepper-pepper-pepper",
        "OLLAMESH_INSECURE_INSIDE": "true",
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "OLLAMESH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "OLLAMESH_SERVICE_CLIENT_SECRET": CLIENT_SECRET,
        "OLLAMESH_AUTH_PORT": str(port),
        "OLLAMESH_AUTH_METRICS_PORT": "0",
        "OLLAMESH_LAME_DUCK_S": "0",
    }


async def process(env: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.auth", env=env, stderr=asyncio.subprocess.PIPE
    )


async def test_a_process_serves_until_told_to_stop_and_logs_no_secret(database: Database) -> None:
    (port,) = free_ports(1)
    env = environment(database, port)
    started = await process(env)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            auth = Auth(port, channel, asyncio.Event())
            await until_founded(auth)
            token = (await auth.service.Login(LOGIN, timeout=TIMEOUT_S)).tokens.access_token
            wrong = pb.LoginRequest(username="typed-into-wrong-field", password="hunter2hunter2")
            with pytest.raises(grpc.aio.AioRpcError):
                await auth.service.Login(wrong, timeout=TIMEOUT_S)
        limits = await asyncio.to_thread(Path(f"/proc/{started.pid}/limits").read_text)
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    finally:
        started.send_signal(signal.SIGTERM)
        _, logged = await started.communicate()
    assert started.returncode == 0, logged.decode()
    assert b'"token_issued"' in logged
    secrets = [env["SECRET_KEY"], env["ENCRYPTION_KEY"], env["DATABASE_URL"], ADMIN_PASSWORD, CLIENT_SECRET]
    for secret in (*secrets, token, token.split(".")[2], wrong.username, wrong.password, "argon2id"):
        assert secret.encode() not in logged


async def test_it_refuses_to_start_and_names_every_mistake_at_once(database: Database) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": "mysql://hunter2",
        "SECRET_KEY": "hunter2",
        "ENCRYPTION_KEY": f"{Fernet.generate_key().decode()},hunter2",
        "OLLAMESH_ADMIN_PASSWORD": "hunter2",
    }
    started = await process(env)
    _, said = await started.communicate()
    assert started.returncode == 2
    assert [line.split()[1] for line in said.decode().splitlines()] == [
        "OLLAMESH_TLS_CERT",
        "OLLAMESH_TLS_KEY",
        "OLLAMESH_TLS_CA",
        "DATABASE_URL",
        "SECRET_KEY",
        "ENCRYPTION_KEY",
        "OLLAMESH_ADMIN_PASSWORD",
        "OLLAMESH_SERVICE_CLIENT_SECRET",
    ]
    assert b"hunter2" not in said


async def test_who_watches_revocations_is_sent_away_when_the_service_ends(database: Database) -> None:
    """A stream that never ends would hold up the end for all its grace."""
    patient = replace(config(database("auth")).server, grace_s=TIMEOUT_S)
    async with serving(replace(config(database("auth")), server=patient)) as auth:
        watch = auth.service.WatchRevocations(pb.WatchRevocationsRequest(), timeout=10 * TIMEOUT_S)
        assert (await anext(aiter(watch))).HasField("snapshot")
        auth.stop.set()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(_read_out(watch), TIMEOUT_S)
        assert failure(ended.value) == (grpc.StatusCode.UNAVAILABLE, "WATCH_ENDED")


async def _read_out(call: grpc.aio.UnaryStreamCall[Any, Any]) -> None:
    async for _ in call:
        pass
