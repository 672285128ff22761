"""Secrets from end to end: put, read by whom they name, listed without values, sealed anew under another key."""

import asyncio
import io
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
from cryptography.fernet import Fernet
from ollamesh.auth.v1 import audit_pb2
from ollamesh.auth.v1 import auth_service_pb2 as pb

from deploy.local.ports import free_ports
from services.auth.adapters.seal import Seal, key_id_of
from services.auth.core.secrets import Binding, bound, unbound
from services.common.grpc.client import bearer
from tests.service.auth_app import (
    ADMIN_PASSWORD,
    CLIENT_SECRET,
    TIMEOUT_S,
    Auth,
    config,
    failure,
    serving,
    until_founded,
)
from tests.service.test_auth_audit import listed
from tests.stack import Database

VALUE = b"plant-7f3a-this-must-be-nowhere\x00\xff"


async def admin_token(auth: Auth) -> str:
    request = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
    return (await auth.service.Login(request, timeout=TIMEOUT_S)).tokens.access_token


class Admin:
    def __init__(self, auth: Auth, token: str) -> None:
        self.auth, self.token = auth, token

    async def call(self, method: str, request: Any) -> Any:
        stub: Any = self.auth.service
        return await getattr(stub, method)(request, timeout=TIMEOUT_S, metadata=bearer(self.token))

    async def put(self, name: str = "hook", value: bytes = VALUE, **fields: Any) -> Any:
        readers = fields.pop("readers", ["agent"])
        request = pb.PutSecretRequest(name=name, value=value, readers=readers, **fields)
        return (await self.call("PutSecret", request)).secret

    async def get(self, name: str = "hook") -> bytes:
        request = pb.GetSecretRequest(name=name, subject_token=self.token)
        value: bytes = (await self.auth.service.GetSecret(request, timeout=TIMEOUT_S)).value
        return value


async def admin_of(auth: Auth) -> Admin:
    return Admin(auth, await admin_token(auth))


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return failure(error.value)[1]


async def test_a_secret_is_put_read_listed_and_deleted(database: Database) -> None:
    async with serving(config(database("auth"))) as auth:
        admin = await admin_of(auth)
        first = await admin.put(readers=["sandbox", "agent", "agent"])
        assert (first.name, list(first.readers), first.version) == ("hook", ["agent", "sandbox"], 1)
        assert await admin.get() == VALUE
        second = await admin.put(value=b"other")
        assert (second.version, second.create_time) == (2, first.create_time)
        assert second.update_time.ToNanoseconds() > first.update_time.ToNanoseconds()
        assert await admin.get() == b"other"
        await admin.put(name="a")
        page = await admin.call("ListSecrets", pb.ListSecretsRequest(page_size=1))
        assert [each.name for each in page.secrets] == ["a"]
        rest = await admin.call("ListSecrets", pb.ListSecretsRequest(page_token=page.next_page_token))
        assert ([each.name for each in rest.secrets], rest.next_page_token) == (["hook"], "")
        for _ in range(2):
            await admin.call("DeleteSecret", pb.DeleteSecretRequest(name="hook"))
        assert await refused(admin.get()) == "NOT_FOUND"
        events = [
            (audit_pb2.AuditAction.Name(each.action)[13:], each.object, each.details.get("change", ""))
            for each in await listed(auth)
            if each.object.startswith("secret/")
        ]
        assert events[0] == ("SECRET_WRITTEN", "secret/hook", "put")
        assert ("SECRET_READ", "secret/hook", "") in events
        assert ("SECRET_WRITTEN", "secret/hook", "deleted") in events


async def test_a_request_that_comes_again_puts_once(database: Database) -> None:
    async with serving(config(database("auth"))) as auth:
        admin = await admin_of(auth)
        once = await admin.put(request_id="r")
        assert await admin.put(request_id="r") == once
        assert await refused(admin.put(request_id="r", value=b"another")) == "REQUEST_ID_REUSED"


async def test_what_was_swapped_moved_or_changed_in_the_database_opens_as_nothing(
    database: Database,
) -> None:
    async with serving(config(database("auth"))) as auth:
        admin = await admin_of(auth)
        for name in "abc":
            await admin.put(name=name, value=name.encode())
        connection = await asyncpg.connect(database.admin_dsn)
        await connection.execute(
            "UPDATE auth.secrets SET sealed_value = (SELECT sealed_value FROM auth.secrets WHERE name = 'b')"
            " WHERE name = 'a';"
            "UPDATE auth.secrets SET readers = '{agent,inference}' WHERE name = 'c'"
        )
        await connection.close()
        assert await refused(admin.get("a")) == "SECRET_UNREADABLE"
        assert await refused(admin.get("c")) == "SECRET_UNREADABLE"
        assert await admin.get("b") == b"b"


def test_a_value_opens_for_just_what_it_was_sealed_for() -> None:
    binding = Binding(organization_id="o", name="n", version=1, readers=["b", "a"])
    sealed = bound(binding, VALUE)
    assert unbound(binding, sealed) == VALUE
    assert unbound(replace(binding, readers=["a", "b"]), sealed) == VALUE
    for other in (
        replace(binding, organization_id="p"),
        replace(binding, name="m"),
        replace(binding, version=2),
        replace(binding, readers=["a"]),
    ):
        assert unbound(other, sealed) is None
    assert unbound(binding, b"") is None


async def test_a_key_is_changed_while_the_service_runs(database: Database, tmp_path: Path) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    file = tmp_path / "encryption_key"
    file.write_text(old)
    settings = replace(config(database("auth"), encryption_key=old), encryption_key_file=file)
    async with serving(settings) as auth:
        admin = await admin_of(auth)
        for number in range(60):  # More than are sealed anew at once.
            await admin.put(name=f"s{number}")
        file.write_text("nonsense")
        assert await admin.get("s1") == VALUE, "a file that is wrong changes nothing"
        file.write_text(f"{new},{old}")
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                done = await admin.call("ResealSecrets", pb.ResealSecretsRequest())
                if done.key_id == key_id_of(new) and not done.resealed_count:
                    break
                await asyncio.sleep(0.05)
        assert done.unreadable_count == 0
        assert await admin.get("s1") == VALUE
        file.write_text(new)
        await admin.call("ResealSecrets", pb.ResealSecretsRequest())
        assert await admin.get("s59") == VALUE
    connection = await asyncpg.connect(database.admin_dsn)
    tables = {"secrets": "sealed_value", "signing_keys": "sealed_key"}
    for table, column in tables.items():
        rows = await connection.fetch(f"SELECT {column} FROM auth.{table}")
        assert rows
        for (sealed,) in rows:
            Fernet(new).decrypt(sealed)
    await connection.close()
    async with serving(config(database("auth"), encryption_key=new)) as auth:
        assert await (await admin_of(auth)).get("s7") == VALUE, "the old key is not needed any more"


async def test_a_tenant_has_so_many_secrets_and_no_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.auth.secrets.Secrets.__init__.__kwdefaults__", {"count_max": 2})
    async with serving(config(database("auth"))) as auth:
        admin = await admin_of(auth)
        await admin.put("a")
        await admin.put("b")
        await admin.put("b")
        assert await refused(admin.put("c")) == "TOO_MANY_SECRETS"


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "n" * 129},
        {"value": b""},
        {"value": b"v" * 65_537},
        {"readers": []},
        {"readers": ["edge"]},
    ],
)
async def test_what_is_wrong_is_named(database: Database, fields: dict[str, Any]) -> None:
    async with serving(config(database("auth"))) as auth:
        assert await refused((await admin_of(auth)).put(**fields)) == "INVALID_REQUEST"


async def test_no_value_is_in_a_log_an_error_or_the_database(database: Database) -> None:
    (port,) = free_ports(1)
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database("auth"),
        "SECRET_KEY": "pepper-pepper-pepper-pepper-pepper",
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "OLLAMESH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "OLLAMESH_SERVICE_CLIENT_SECRET": CLIENT_SECRET,
        "OLLAMESH_AUTH_PORT": str(port),
        "OLLAMESH_AUTH_METRICS_PORT": "0",
        "OLLAMESH_LAME_DUCK_S": "0",
        "OLLAMESH_INSECURE_INSIDE": "true",
    }
    command = (sys.executable, "-m", "services.auth")
    process = await asyncio.create_subprocess_exec(*command, env=env, stderr=asyncio.subprocess.PIPE)
    told = io.StringIO()
    planted = [b"planted-secret-%d" % number for number in range(5)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            auth = Auth(port, channel, asyncio.Event())
            await until_founded(auth)
            admin = await admin_of(auth)
            for number, value in enumerate(planted):
                await admin.put(name=f"n{number}", value=value)
                assert await admin.get(f"n{number}") == value
            bads: list[dict[str, Any]] = [{"name": "a/b"}, {"readers": ["edge"]}]
            for bad in bads:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await admin.put(value=planted[0], **{"name": "x", **bad})
                told.write(str(error.value))
            told.write(str(await listed(auth)))
    finally:
        process.send_signal(signal.SIGTERM)
        _, logged = await process.communicate()
    assert process.returncode == 0, logged.decode()
    connection = await asyncpg.connect(database.admin_dsn)
    told.write(str(await connection.fetch("SELECT * FROM auth.secrets")))
    told.write(str(await connection.fetch("SELECT query FROM pg_stat_statements")))
    await connection.close()
    for text in (told.getvalue(), logged.decode()):
        assert "planted-secret" not in text


def test_a_seal_says_what_is_sealed_with_an_older_key() -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    seal = Seal([old])
    sealed = seal.encrypt(b"x")
    assert seal.renewed(sealed) is None
    seal.replace([new, old])
    anew = seal.renewed(sealed)
    assert anew is not None
    assert seal.renewed(anew) is None
    assert Fernet(new).decrypt(anew) == b"x"
