"""The audit trail from end to end: through the auth service's socket into a real chain, and back."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
from ollamesh.auth.v1 import audit_pb2
from ollamesh.auth.v1 import auth_service_pb2 as pb
from prometheus_client import CollectorRegistry

from services.common.audit import Action, Happened, Outcome
from services.common.auditing.config import AuditConfig
from services.common.auditing.trail import BufferedTrail
from services.common.errors import AuditUnavailable
from services.common.grpc.audit import audit_trail
from services.common.grpc.client import bearer
from services.common.grpc.keys import TrustConfig
from services.common.inside import Inside
from tests.fakes.severable import Severable
from tests.service.auth_app import (
    ADMIN_PASSWORD,
    ISSUER,
    TIMEOUT_S,
    Auth,
    config,
    failure,
    port_of,
    serving,
)
from tests.stack import Database

DENIED = audit_pb2.AUDIT_ACTION_ACCESS_DENIED


async def as_admin(auth: Auth) -> tuple[tuple[str, str], ...]:
    request = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
    return bearer((await auth.service.Login(request, timeout=TIMEOUT_S)).tokens.access_token)


def event(name: str = "a", **fields: Any) -> audit_pb2.AuditEvent:
    usual: dict[str, Any] = {
        "action": "AUDIT_ACTION_MODEL_CHANGED",
        "outcome": "AUDIT_OUTCOME_ALLOWED",
        "user_id": "user:ann",
        "organization_id": "default",
        "service": "inference",
        "object": f"model/{name}",
    }
    return audit_pb2.AuditEvent(**{**usual, **fields})


async def recorded(auth: Auth, *events: audit_pb2.AuditEvent, request_id: str = "r") -> int:
    request = pb.RecordAuditEventsRequest(request_id=request_id, events=events)
    return (await auth.service.RecordAuditEvents(request, timeout=TIMEOUT_S)).last_sequence


async def listed(auth: Auth, **fields: Any) -> list[audit_pb2.AuditEvent]:
    """All pages."""
    who, token = await as_admin(auth), ""
    found: list[audit_pb2.AuditEvent] = []
    while True:
        request = pb.ListAuditEventsRequest(page_token=token, **fields)
        page = await auth.service.ListAuditEvents(request, timeout=TIMEOUT_S, metadata=who)
        found += page.events
        token = page.next_page_token
        if not token:
            return found


async def verified(auth: Auth, **fields: Any) -> pb.VerifyAuditLogResponse:
    who = await as_admin(auth)
    return await auth.service.VerifyAuditLog(
        pb.VerifyAuditLogRequest(**fields), timeout=TIMEOUT_S, metadata=who
    )


async def test_what_is_recorded_is_listed_once_and_in_order(database: Database) -> None:
    async with serving(config(database("auth"))) as auth:
        names = [f"{number:03}" for number in range(250)]
        await recorded(auth, *map(event, names))
        await recorded(auth, *map(event, names))  # The same delivery again.
        found = await listed(auth, page_size=100, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED)
        assert [each.object for each in found] == [f"model/{name}" for name in names]
        newest = await listed(
            auth, page_size=100, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED, newest_first=True
        )
        assert newest == found[::-1]
        behind = await listed(
            auth, after_sequence=found[99].sequence, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED
        )
        assert behind == found[100:]
        report = await verified(auth)
        assert (report.intact, report.complete) == (True, True)
        assert report.event_count >= 250


async def test_an_event_that_was_named_counts_once_whoever_sends_it(database: Database) -> None:
    async with serving(config(database("auth"))) as auth:
        name = "018f4b3e-0000-7000-8000-000000000001"
        await recorded(auth, event(event_id=name), request_id="one")
        await recorded(auth, event(event_id=name), event("b"), request_id="two")
        found = await listed(auth, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED)
        assert [each.object for each in found] == ["model/a", "model/b"]


async def test_a_refusal_is_told_with_who_it_was_for(database: Database) -> None:
    async with serving(config(database("auth"))) as auth:
        request = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD, role="ROLE_USER")
        token = (await auth.service.Login(request, timeout=TIMEOUT_S)).tokens.access_token
        for metadata in (bearer(token), bearer("nonsense")):
            with pytest.raises(grpc.aio.AioRpcError):
                await auth.service.VerifyAuditLog(
                    pb.VerifyAuditLogRequest(), timeout=TIMEOUT_S, metadata=metadata
                )
        found = await until_listed(auth, 2, action=DENIED)
        assert {(each.reason, each.user_id) for each in found} == {
            ("ROLE_REQUIRED", "user:admin"),
            ("TOKEN_INVALID", ""),
        }
        assert {each.object for each in found} == {"/ollamesh.auth.v1.AuthService/VerifyAuditLog"}


async def test_a_flood_of_refusals_is_a_number(database: Database) -> None:
    async with serving(config(database("auth"))) as auth:

        async def refused() -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                await auth.service.GetCaller(
                    pb.GetCallerRequest(), timeout=TIMEOUT_S, metadata=bearer("nonsense")
                )

        await asyncio.gather(*(refused() for _ in range(200)))
        async with asyncio.timeout(TIMEOUT_S):
            while (
                sum(int(each.details.get("count", "1")) for each in await listed(auth, action=DENIED)) < 200
            ):
                await asyncio.sleep(0.1)
        assert len(await listed(auth, action=DENIED)) <= 20


async def until_listed(auth: Auth, count: int, **fields: Any) -> list[audit_pb2.AuditEvent]:
    async with asyncio.timeout(TIMEOUT_S):
        while len(found := await listed(auth, **fields)) < count:
            await asyncio.sleep(0.05)
    return found


async def test_an_admin_sees_the_events_of_their_own_organisation(database: Database) -> None:
    async with serving(config(database("auth"))) as auth:
        await recorded(auth, event("ours"), event("theirs", organization_id="acme"))
        everything = await listed(auth, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED)
        assert [each.object for each in everything] == ["model/ours", "model/theirs"]
        connection = await asyncpg.connect(database.admin_dsn, server_settings={"search_path": "auth"})
        await connection.execute(
            "INSERT INTO organizations VALUES ('acme', 'Acme'); INSERT INTO projects VALUES ('acme', 'p', 'P');"
            "UPDATE users SET organization_id = 'acme', project_id = 'p'"
        )
        await connection.close()
        own = await listed(auth, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED)
        assert [each.object for each in own] == ["model/theirs"]


async def test_the_end_of_a_service_signs_what_it_told(database: Database, tmp_path: Path) -> None:
    settings = replace(config(database("auth")), audit=AuditConfig(spool=tmp_path))
    async with serving(settings) as auth:
        last = await recorded(auth, event())
        report = await verified(auth)
    async with serving(settings) as auth:
        again = await verified(auth, after_sequence=report.last_sequence, after_hash=report.last_hash)
        whole = await verified(auth)
    assert last
    assert (report.intact, again.intact, whole.intact) == (True, True, True)
    assert whole.head_count >= 1


async def test_a_chain_that_was_cut_off_is_not_taken_for_whole(database: Database, tmp_path: Path) -> None:
    settings = replace(config(database("auth")), audit=AuditConfig(spool=tmp_path))
    async with serving(settings) as auth:
        await recorded(auth, *map(event, "abcdef"))
        known = await verified(auth)
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("SET session_replication_role = replica")
    await admin.execute("DELETE FROM auth.audit_events WHERE sequence > 3; DELETE FROM auth.audit_heads")
    await admin.close()
    async with serving(settings) as auth:
        report = await verified(auth)
        assert (report.intact, report.problem) == (
            False,
            "the chain is not the one that was signed here before",
        )
    (tmp_path / "auth-head.json").unlink()
    async with serving(settings) as auth:
        assert (await verified(auth)).intact, "nothing in the database tells"
        remembered = await verified(auth, after_sequence=known.last_sequence, after_hash=known.last_hash)
        assert not remembered.intact, "but whoever kept the answer knows"


def changed(name: str) -> Happened:
    return Happened(
        action=Action.MODEL_CHANGED, outcome=Outcome.ALLOWED, organization_id="default", object=name
    )


async def settled(trail: BufferedTrail) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not trail.is_settled:
            await asyncio.sleep(0.02)


async def test_while_the_store_is_away_events_wait_on_disk_and_come_once_and_in_order(
    database: Database, tmp_path: Path
) -> None:
    dsn, kept = database("auth"), AuditConfig(spool=tmp_path)
    async with (
        Severable.to(port_of(dsn)) as cable,
        serving(replace(config(dsn.replace(f":{port_of(dsn)}/", f":{cable.port}/")), audit=kept)) as auth,
        audit_trail(
            kept,
            TrustConfig(issuer=ISSUER, auth_target=f"127.0.0.1:{auth.port}"),
            "inference",
            CollectorRegistry(),
            inside=Inside.plain("inference"),
        ) as trail,
    ):
        trail.note(changed("before"))
        await settled(trail)
        await cable.cut()
        for number in range(50):
            trail.note(changed(f"{number:02}"))
            if number % 10 == 0:
                await trail.assure(changed(f"{number:02} assured"))
        assert not trail.is_settled
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await as_admin(auth)
        assert failure(refused.value)[1] == "STORE_UNAVAILABLE"
        await cable.mend()
        await settled(trail)
        found = await listed(auth, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED)
        expected = ["before"]
        for number in range(50):
            expected.append(f"{number:02}")
            if number % 10 == 0:
                expected.append(f"{number:02} assured")
        assert [each.object for each in found] == expected
        assert {each.service for each in found} == {"inference"}
        assert (await verified(auth)).intact


async def test_without_a_place_to_keep_it_what_must_be_recorded_is_refused(database: Database) -> None:
    async with (
        serving(config(database("auth"))) as auth,
        Severable.to(auth.port) as cable,
        audit_trail(
            AuditConfig(),
            TrustConfig(issuer=ISSUER, auth_target=f"127.0.0.1:{cable.port}"),
            "inference",
            CollectorRegistry(),
            inside=Inside.plain("inference"),
        ) as trail,
    ):
        await cable.cut()
        trail.note(changed("noted"))
        with pytest.raises(AuditUnavailable):
            await trail.assure(changed("refused"))
        await cable.mend()
        await settled(trail)
        found = await listed(auth, action=audit_pb2.AUDIT_ACTION_MODEL_CHANGED)
        assert [each.object for each in found] == ["noted"]
