"""Decisions about calls, in PostgreSQL: each is given once, whoever else decides at the same moment."""

from collections.abc import Mapping
from uuid import UUID

import asyncpg

from services.agent.core.approvals import Decided
from services.agent.core.events import ApprovalRequested, Decision
from services.agent.core.ids import RunId
from services.agent.errors import RunNotFound
from services.common.postgres import Database

SETTLE = """
    INSERT INTO approvals (approval_id, run_id, call_id, decision, user_id, arguments_json, reason)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT DO NOTHING
"""
# By call and not by approval: a call is decided once, however often it was asked about.
SETTLED_ONE = "SELECT * FROM approvals WHERE run_id = $1 AND call_id = $2"
SETTLED = "SELECT * FROM approvals WHERE run_id = $1"


class PostgresApprovals:
    """Implements ports.Approvals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def settle(self, run_id: RunId, question: ApprovalRequested, decided: Decided) -> Decided:
        try:
            async with self._database.transaction(system=True) as connection:
                await connection.execute(
                    SETTLE,
                    question.approval_id,
                    run_id,
                    question.call_id,
                    decided.decision.value,
                    decided.user_id,
                    decided.arguments_json.encode(),
                    decided.reason.encode(),
                )
                row = await connection.fetchrow(SETTLED_ONE, run_id, question.call_id)
        except asyncpg.ForeignKeyViolationError:
            raise RunNotFound from None  # Its thread was deleted just now.
        if row is None:
            raise RunNotFound
        return _decided(row)

    async def settled(self, run_id: RunId) -> Mapping[UUID, Decided]:
        async with self._database.connection(system=True) as connection:
            rows = await connection.fetch(SETTLED, run_id)
        return {row["approval_id"]: _decided(row) for row in rows}


def _decided(row: asyncpg.Record) -> Decided:
    return Decided(
        decision=Decision(row["decision"]),
        user_id=row["user_id"],
        arguments_json=row["arguments_json"].decode(),
        reason=row["reason"].decode(),
    )
