"""A chain in a real table, whoever may do whatever to it, and what its reader says."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg
from cryptography.fernet import Fernet

from services.auth.adapters.audit_signer import AuditSigner
from services.auth.adapters.postgres_audit import PostgresAudit, connected
from services.auth.audit_heads import AuditHeads
from services.auth.audit_reading import ChainReader
from services.auth.audit_witness import Witness
from services.auth.core.audit_chain import Check, Place
from services.common.audit import Action, Happened, Outcome
from services.common.auditing.records import Record, fitted
from tests.stack import Database

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
TABLES = ("audit_events", "audit_heads", "audit_keys")


def record(number: int, **fields: str) -> Record:
    happened = Happened(
        action=Action.LOGIN,
        outcome=Outcome.ALLOWED,
        user_id=fields.get("user_id", f"user:{number % 7}"),
        organization_id=fields.get("organization_id", "default"),
        object=fields.get("object", f"thing/{number}"),
        details={"number": str(number), "words": "Grüße, 世界 \U0001f600"},
    )
    return Record(uuid.uuid4(), 1_700_000_000_000_000 + number * 1001, "auth", fitted(happened))


@dataclass(frozen=True, slots=True)
class Rig:
    store: PostgresAudit
    heads: AuditHeads
    signer: AuditSigner
    admin: Connection  # A superuser, whom no trigger stops.

    async def checked(self, start: Place | None = None) -> Check:
        reader = await ChainReader.from_place(self.store, self.signer, start or Place())
        await reader.read(2**62)
        return reader.check

    async def remember(self) -> None:
        for table in TABLES:
            await self.admin.execute(f"CREATE TABLE auth.{table}_before AS SELECT * FROM auth.{table}")

    async def restore(self) -> None:
        for table in TABLES:
            await self.admin.execute(
                f"TRUNCATE auth.{table}; INSERT INTO auth.{table} SELECT * FROM auth.{table}_before"
            )


@asynccontextmanager
async def audit_rig(database: Database, *, key: bytes | None = None) -> AsyncIterator[Rig]:
    signer = AuditSigner(Fernet(key or Fernet.generate_key()))
    admin = await asyncpg.connect(database.admin_dsn)
    try:
        await admin.execute("SET session_replication_role = replica; SET search_path = auth")
        async with connected(database("auth")) as pool:
            store = PostgresAudit(pool)
            signer.load(await store.keys(signer.make()))
            yield Rig(store, AuditHeads(store, signer, Witness(None)), signer, admin)
    finally:
        await admin.close()


async def grown(rig: Rig, *, groups: int = 4, of: int = 12) -> Sequence[Record]:
    """Events in groups, a signed head behind each."""
    records = [record(number) for number in range(groups * of)]
    for group in range(groups):
        await rig.store.append(records[group * of : (group + 1) * of])
        await rig.heads.sign_now()
    return records
