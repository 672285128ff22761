"""A store that is away: who was let in a moment ago still is, and others are told to come back."""

import asyncio

import grpc.aio
import pytest
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.common.grpc.client import bearer
from tests.fakes.severable import Severable
from tests.service import auth_app
from tests.service.auth_app import TIMEOUT_S, failure, port_of, retry_after_s
from tests.service.edge_app import CHAT, whole
from tests.service.key_owners import login, make_key
from tests.stack import Database


async def test_known_keys_go_on_and_unknown_ones_are_told_to_come_back(database: Database) -> None:
    dsn = database("auth")
    async with Severable.to(port_of(dsn)) as cable:
        config = auth_app.config(dsn.replace(f":{port_of(dsn)}/", f":{cable.port}/"))
        async with whole(config) as world:
            admin = await login(world.auth)
            known, unknown = [(await make_key(world.auth, admin)).secret for _ in range(2)]
            call = world.stack.unary(CHAT)
            await call(b"", metadata=bearer(known), timeout=TIMEOUT_S)
            await cable.cut()
            for _ in range(20):
                await call(b"", metadata=bearer(known), timeout=TIMEOUT_S)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", metadata=bearer(unknown), timeout=TIMEOUT_S)
            assert failure(refused.value) == (grpc.StatusCode.UNAVAILABLE, "AUTH_UNAVAILABLE")
            assert retry_after_s(refused.value) == 1.0
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await world.auth.service.CreateApiKey(
                    pb.CreateApiKeyRequest(display_name="x"), metadata=admin, timeout=TIMEOUT_S
                )
            assert (
                refused.value.code() is grpc.StatusCode.UNAVAILABLE
            )  # Nothing is done that is not on the trail.
            await cable.mend()
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    try:
                        await call(b"", metadata=bearer(unknown), timeout=TIMEOUT_S)
                        break
                    except grpc.aio.AioRpcError as error:
                        assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - until it is there.
                        await asyncio.sleep(0.05)
