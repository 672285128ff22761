"""`ollamesh audit`: what happened, whether anybody has changed the record of it, and all of it as JSON lines."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.audit_pb2 import AuditAction, AuditEvent, AuditOutcome
from ollamesh.client.values import time as time_of

from clients.cli.administration import Auth, call
from clients.cli.failures import Failure
from clients.cli.output import print_json, quantity
from clients.cli.printable import printable
from clients.cli.settings import Settings

PAGE_SIZE = 1000
FOLLOW_EVERY_S = 1.0
VERIFY_DEADLINE_S = 300.0
ACTIONS = [name.removeprefix("AUDIT_ACTION_").lower() for name in AuditAction.keys()[1:]]


@click.group()
def audit() -> None:
    """Show, check and export the audit trail."""


@audit.command()
@click.option("--lines", "-n", type=click.IntRange(0, 1000), default=20, show_default=True)
@click.option("--follow", "-f", is_flag=True, help="Go on as events come, until Ctrl-C.")
@click.option("--action", type=click.Choice(ACTIONS), help="Only events of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each event.")
@click.pass_obj
def tail(settings: Settings, lines: int, action: str | None, *, follow: bool, as_json: bool) -> None:
    """Show the newest events of your organisation, the newest last."""
    show = _show_json if as_json else _show

    async def work(auth: Auth) -> None:
        last = 0
        newest = pb.ListAuditEventsRequest(page_size=max(lines, 1), newest_first=True, action=_name(action))
        found = list((await auth.call(auth.stub.ListAuditEvents, newest)).events)
        for event in reversed(found):
            last = event.sequence
            if lines:
                show(event)
        while follow:
            async for event in _behind(auth, last, action):
                last = event.sequence
                show(event)
            await asyncio.sleep(FOLLOW_EVERY_S)

    with suppress(KeyboardInterrupt):
        call(settings, work)


@audit.command()
@click.option(
    "--output", "-o", type=click.File("w", encoding="utf-8"), default="-", help="A file; - is the default."
)
@click.option("--after", type=click.IntRange(0), default=0, help="Only events behind this one in the chain.")
@click.pass_obj
def export(settings: Settings, output: TextIO, after: int) -> None:
    """Write all events of your organisation as JSON lines, oldest first, each with the hash that binds it."""

    async def work(auth: Auth) -> int:
        count = 0
        async for event in _behind(auth, after, None):
            output.write(json.dumps(as_dict(event), ensure_ascii=False) + "\n")
            count += 1
        return count

    count = call(settings, work)
    click.echo(f"{quantity(count, 'event')} exported", err=True)


@audit.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--forget",
    is_flag=True,
    help="Forget what was verified before: for a store that was restored from a backup.",
)
@click.pass_obj
def verify(settings: Settings, *, as_json: bool, forget: bool) -> None:
    """Check every link of the chain and every signed head; fail if an event was changed, removed, added or moved.

    What was found whole is remembered here, outside of the mesh: so the next time, it also shows whether the end of the
    chain was cut off.
    """
    witness = Witness.beside(settings)
    if forget:
        witness.forget()

    report = call(settings, lambda auth: _checked(auth, witness.known))
    if report.problem is None:
        witness.remember(report.last_sequence, report.last_hash)
    if as_json:
        print_json(report.values())
    if report.problem is not None:
        raise Failure(f"the audit trail is not whole at event {report.broken_sequence}: {report.problem}")
    if not as_json:
        counts = f"{quantity(report.event_count, 'event')}, {quantity(report.head_count, 'signed head')}"
        click.echo(f"the audit trail is whole: {counts}")


@dataclass(slots=True)
class Report:
    """What the answers said, added up."""

    event_count: int = 0
    head_count: int = 0
    last_sequence: int = 0
    last_hash: bytes = b""
    broken_sequence: int = 0
    problem: str | None = None

    def take(self, answer: pb.VerifyAuditLogResponse) -> None:
        self.event_count += answer.event_count
        self.head_count += answer.head_count
        self.last_sequence, self.last_hash = answer.last_sequence, answer.last_hash
        if not answer.intact:
            self.broken_sequence, self.problem = answer.broken_sequence, answer.problem

    def values(self) -> dict[str, Any]:
        return {
            "intact": self.problem is None,
            "event_count": self.event_count,
            "head_count": self.head_count,
            "last_sequence": self.last_sequence,
            "last_hash": self.last_hash,
            "broken_sequence": self.broken_sequence,
            "problem": self.problem or "",
        }


@dataclass(frozen=True, slots=True)
class Witness:
    """What was whole when it was looked at last, by the mesh's address."""

    path: Path
    edge: str

    @classmethod
    def beside(cls, settings: Settings) -> "Witness":
        return cls(settings.login_file.with_name("audit.json"), settings.edge)

    @property
    def known(self) -> tuple[int, bytes] | None:
        try:
            found = self._read()[self.edge]
            return int(found["sequence"]), bytes.fromhex(found["hash"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, sequence: int, hash_: bytes) -> None:
        if sequence:
            self._write({**self._others(), self.edge: {"sequence": sequence, "hash": hash_.hex()}})

    def forget(self) -> None:
        self._write(self._others())

    def _others(self) -> dict[str, Any]:
        try:
            return {edge: known for edge, known in self._read().items() if edge != self.edge}
        except (OSError, ValueError, AttributeError):
            return {}

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found

    def _write(self, values: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(values, file)


def as_dict(event: AuditEvent) -> dict[str, Any]:
    """An event as a script reads it. Times have microseconds: they are what the hash is made of."""
    return {
        "sequence": event.sequence,
        "event_id": event.event_id,
        "event_time_us": event.event_time.ToMicroseconds(),
        "record_time_us": event.record_time.ToMicroseconds(),
        "service": event.service,
        "action": AuditAction.Name(event.action).removeprefix("AUDIT_ACTION_"),
        "outcome": AuditOutcome.Name(event.outcome).removeprefix("AUDIT_OUTCOME_"),
        "user_id": event.user_id,
        "organization_id": event.organization_id,
        "object": event.object,
        "reason": event.reason,
        "details": dict(event.details),
        "hash": event.hash.hex(),
    }


async def _behind(auth: Auth, sequence: int, action: str | None) -> AsyncIterator[AuditEvent]:
    """Every event behind one, page by page."""
    token = ""
    while True:
        request = pb.ListAuditEventsRequest(
            page_size=PAGE_SIZE, page_token=token, after_sequence=sequence, action=_name(action)
        )
        page = await auth.call(auth.stub.ListAuditEvents, request)
        for event in page.events:
            yield event
        token = page.next_page_token
        if not token:
            return


async def _checked(auth: Auth, known: tuple[int, bytes] | None) -> Report:
    """From what is known to be whole, for the end may have been cut off; then all of it from the beginning."""
    report, place = Report(), (0, b"")
    if known is not None:
        report.take(await _verified(auth, *known))
        if report.problem is not None:
            return report
        report = Report()
    while True:
        answer = await _verified(auth, *place)
        report.take(answer)
        if report.problem is not None or answer.complete:
            return report
        place = (answer.last_sequence, answer.last_hash)


async def _verified(auth: Auth, sequence: int, hash_: bytes) -> pb.VerifyAuditLogResponse:
    request = pb.VerifyAuditLogRequest(after_sequence=sequence, after_hash=hash_)
    return await auth.call(auth.stub.VerifyAuditLog, request, deadline_s=VERIFY_DEADLINE_S)


def _name(action: str | None) -> str:
    return f"AUDIT_ACTION_{(action or 'unspecified').upper()}"


def _show_json(event: AuditEvent) -> None:
    print(json.dumps(as_dict(event), ensure_ascii=False), flush=True)


def _show(event: AuditEvent) -> None:
    told = as_dict(event)
    happened = time_of(event.event_time)
    words = [
        f"{happened.astimezone():%Y-%m-%d %H:%M:%S}" if happened else "",
        f"{told['action']:<18}",
        f"{told['outcome']:<7}",
        told["user_id"] or "-",
        told["object"],
        told["reason"],
        " ".join(f"{name}={value}" for name, value in sorted(told["details"].items())),
    ]
    click.echo(printable("  ".join(word for word in words if word.strip())))
    sys.stdout.flush()
