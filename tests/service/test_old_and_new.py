"""The release before and this one, side by side on the new schema: each goes on with what the other one wrote.

Auth, whose rows all other services live by. `make drill-rollback` has all services do it, under load.
"""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
from cryptography.fernet import Fernet
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_USER

from deploy.local.ports import free_ports
from services.common.grpc.client import bearer
from tests.chaos.rolling import ROOT, Member
from tests.drills.old_code import NoOldCodeError, Old, extract
from tests.service.auth_app import ADMIN_PASSWORD, CLIENT_SECRET, ISSUER, Auth
from tests.service.test_auth_audit import event
from tests.stack import Database

TIMEOUT_S = 60
PASSWORD = "a long enough one"


@pytest.fixture(scope="module")
def old() -> Iterator[Old]:
    with tempfile.TemporaryDirectory(prefix="ollamesh-test-") as folder:
        try:
            found = extract(Path(folder))
        except NoOldCodeError as error:
            pytest.skip(str(error))
        yield found


@dataclass(frozen=True, slots=True)
class Both:
    """The old code and the new."""

    old: Auth
    new: Auth


@asynccontextmanager
async def running(database: Database, old: Old) -> AsyncIterator[Both]:
    environment = {
        "OLLAMESH_ISSUER": ISSUER,
        "OLLAMESH_LAME_DUCK_S": "0",
        "OLLAMESH_GRACE_S": "1",
        "OLLAMESH_INSECURE_INSIDE": "true",
        "SECRET_KEY": secrets.token_hex(32),
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "OLLAMESH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "OLLAMESH_SERVICE_CLIENT_SECRET": CLIENT_SECRET,
        "DATABASE_URL": database("auth"),
        "OLLAMESH_AUTH_METRICS_PORT": "0",
    }
    async with AsyncExitStack() as opened:
        found = []
        for root, port in zip((old.folder, ROOT), free_ports(2), strict=True):
            member = Member("auth", port, {**environment, "OLLAMESH_AUTH_PORT": str(port)}, root=root)
            await member.start()
            opened.push_async_callback(member.end)
            channel = await opened.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            found.append(Auth(port, channel, asyncio.Event()))
        yield Both(*found)


async def logged_in(auth: Auth, name: str, password: str) -> tuple[tuple[str, str], ...]:
    request = pb.LoginRequest(username=name, password=password)
    return bearer((await auth.service.Login(request, timeout=TIMEOUT_S)).tokens.access_token)


@pytest.mark.asyncio
@pytest.mark.timeout(300)
async def test_each_goes_on_with_what_the_other_wrote(database: Database, old: Old) -> None:
    async with running(database, old) as both:
        for writer, reader, name in ((both.old, both.new, "ann"), (both.new, both.old, "bob")):
            admin = await logged_in(writer, "admin", ADMIN_PASSWORD)
            user = pb.CreateUserRequest(username=name, password=PASSWORD, role=ROLE_USER)
            await writer.service.CreateUser(user, metadata=admin, timeout=TIMEOUT_S)
            who = await logged_in(reader, name, PASSWORD)
            key = await reader.service.CreateApiKey(
                pb.CreateApiKeyRequest(display_name=name), metadata=who, timeout=TIMEOUT_S
            )
            listed = await writer.service.ListApiKeys(
                pb.ListApiKeysRequest(), metadata=who, timeout=TIMEOUT_S
            )
            assert [one.api_key_id for one in listed.api_keys] == [key.api_key.api_key_id]
            request = pb.RecordAuditEventsRequest(request_id=name, events=[event(name)])
            await writer.service.RecordAuditEvents(request, timeout=TIMEOUT_S)
        for auth in (both.old, both.new):
            admin = await logged_in(auth, "admin", ADMIN_PASSWORD)
            answer = await auth.service.VerifyAuditLog(
                pb.VerifyAuditLogRequest(), metadata=admin, timeout=TIMEOUT_S
            )
            assert answer.intact, answer.problem
            assert answer.event_count > 2
