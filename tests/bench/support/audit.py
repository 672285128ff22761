"""What the audit trail takes and costs: events a second into a real chain, and what a `note` adds to whoever notes."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from cryptography.fernet import Fernet
from prometheus_client import CollectorRegistry

from services.auth.audit import AuditLog, audit_log
from services.auth.core.audit_chain import Place
from services.common.audit import Action, Happened, Outcome
from services.common.auditing.config import AuditConfig
from services.common.auditing.trail import QUEUE_MAX, BufferedTrail
from tests.bench.support.report import Figure
from tests.stack import running_postgres

SECONDS = 5.0
RATE_GOAL = 5000.0  # Events a second.
NOTE_GOAL_US = 50.0
PACED_PER_S = 6000  # Noted at that pace, above the goal: the trail has to keep up.
TICK_S = 0.01
SPOOL_BYTES_MAX = 64 * 1024 * 1024


def audit_figures(*, seconds: float = SECONDS) -> list[Figure]:
    """Measure on a PostgreSQL of one's own that syncs to disk as a real one does."""
    with running_postgres(durable=True) as server, server.fresh() as database, TemporaryDirectory() as folder:
        return asyncio.run(_measured(database("auth"), Path(folder), seconds))


async def _measured(dsn: str, folder: Path, seconds: float) -> list[Figure]:
    config = AuditConfig(spool=folder, spool_bytes_max=SPOOL_BYTES_MAX)
    async with audit_log(dsn, config, Fernet(Fernet.generate_key()), CollectorRegistry()) as audit:
        trail = audit.trail
        assert isinstance(trail, BufferedTrail)
        flat_out = await _flat_out(trail, audit, seconds)
        paced, note_us, is_kept_up = await _paced(trail, seconds)
        verdict = await audit.verify(Place())
        assert verdict.problem is None, verdict
    return [
        Figure(name="audit, flat out", value=flat_out, unit="events/s", goal=RATE_GOAL, at_least=True),
        Figure(name="audit, sustained", value=paced, unit="events/s", goal=RATE_GOAL, at_least=True),
        Figure(name="audit, nothing on disk or lost meanwhile", value=float(is_kept_up), unit="yes"),
        Figure(name="audit, a note, median", value=note_us, unit="µs", goal=NOTE_GOAL_US),
    ]


def event(number: int) -> Happened:
    return Happened(
        action=Action.API_KEY_USED,
        outcome=Outcome.ALLOWED,
        user_id="user:ann",
        organization_id="default",
        object=f"api_key/{number}",
        details={"method": "/ollamesh.inference.v1.InferenceService/Chat"},
    )


async def _flat_out(trail: BufferedTrail, audit: AuditLog, seconds: float) -> float:
    """As many as the chain takes: the queue is never empty, and never full."""
    number, start_s = 0, time.perf_counter()
    while time.perf_counter() - start_s < seconds:
        while trail.waiting_count < QUEUE_MAX // 4:
            trail.note(event(number))
            number += 1
        await asyncio.sleep(TICK_S)
    await _until(lambda: trail.is_settled)
    return number / (time.perf_counter() - start_s)


async def _paced(trail: BufferedTrail, seconds: float) -> tuple[float, float, bool]:
    """At a pace; events a second until all were in the chain, the median of a note, and whether memory was enough."""
    notes_us: list[float] = []
    number, start_s, is_kept_up = 0, time.perf_counter(), True
    while (elapsed_s := time.perf_counter() - start_s) < seconds:
        while number < elapsed_s * PACED_PER_S:
            happened = event(number)
            before_s = time.perf_counter()
            trail.note(happened)
            notes_us.append((time.perf_counter() - before_s) * 1e6)
            number += 1
        is_kept_up = is_kept_up and trail.waiting_count < QUEUE_MAX
        await asyncio.sleep(TICK_S)
    await _until(lambda: trail.is_settled)
    return number / (time.perf_counter() - start_s), median(notes_us), is_kept_up


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(TICK_S)
