"""The audit chain over gRPC; decides nothing but who may see whose events."""

import time
import uuid
from collections.abc import Collection, Iterable

from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.audit_pb2 import (
    AuditAction,
    AuditEvent,
    AuditOutcome,
)

from services.auth.adapters.postgres_audit import Link, Wanted
from services.auth.audit import AuditLog
from services.auth.core.audit_chain import Place
from services.auth.founding import HOME
from services.common.audit import Action, Happened, Outcome
from services.common.auditing.records import Record, fitted
from services.common.errors import InvalidRequest, Violation
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.common.grpc.peer import peer_service

PAGE_SIZE = 100
_ACTIONS, _OUTCOMES = frozenset(AuditAction.keys()), frozenset(AuditOutcome.keys())
AHEAD_US_MAX = 300_000_000  # Of our clock: theirs may be a little fast.


class AuditMethods:
    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def RecordAuditEvents(
        self, request: pb.RecordAuditEventsRequest, context: Context
    ) -> pb.RecordAuditEventsResponse:
        _check_told_by(peer_service(context), request.events)
        named = uuid.uuid5(uuid.NAMESPACE_OID, request.request_id)
        records = [
            _record(event, uuid.UUID(event.event_id) if event.event_id else uuid.uuid5(named, str(place)))
            for place, event in enumerate(request.events)
        ]
        return pb.RecordAuditEventsResponse(last_sequence=await self._audit.record(records))

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Context
    ) -> pb.ListAuditEventsResponse:
        organization_id = caller().organization_id
        links, more = await self._audit.page(
            Wanted(
                organization_id=None if organization_id == HOME else organization_id,
                action=_word(AuditAction.Name(request.action)) if request.action else None,
                since_us=request.start_time.ToMicroseconds() if request.HasField("start_time") else None,
                beyond=_beyond(request),
                newest_first=request.newest_first,
                count_max=request.page_size or PAGE_SIZE,
            )
        )
        return pb.ListAuditEventsResponse(
            events=map(_event, links), next_page_token="" if more is None else str(more)
        )

    async def VerifyAuditLog(
        self, request: pb.VerifyAuditLogRequest, context: Context
    ) -> pb.VerifyAuditLogResponse:
        start = Place(request.after_sequence, request.after_hash) if request.after_sequence else Place()
        verdict = await self._audit.verify(start)
        problem = verdict.problem
        return pb.VerifyAuditLogResponse(
            intact=problem is None,
            event_count=verdict.event_count,
            head_count=verdict.head_count,
            broken_sequence=problem.sequence if problem else 0,
            problem=problem.what if problem else "",
            last_sequence=verdict.last.sequence,
            last_hash=verdict.last.hash if verdict.last.sequence else b"",
            complete=verdict.is_complete,
        )


def _check_told_by(peer: str | None, events: Iterable[AuditEvent]) -> None:
    """Raise InvalidRequest for what a service tells as another. `peer` None: inside is plain text, for development."""
    wrong = [place for place, event in enumerate(events) if peer is not None and event.service != peer]
    if wrong:
        raise InvalidRequest([Violation(f"events[{place}].service", "is not the caller") for place in wrong])


def _record(event: AuditEvent, event_id: uuid.UUID) -> Record:
    happened = Happened(
        action=Action[_word(AuditAction.Name(event.action))],
        outcome=Outcome[_word(AuditOutcome.Name(event.outcome))],
        user_id=event.user_id,
        organization_id=event.organization_id,
        object=event.object,
        reason=event.reason,
        details=dict(event.details),
    )
    return Record(event_id, _time_us(event), event.service, fitted(happened))


def _time_us(event: AuditEvent) -> int:
    """When it happened; now, if that is not told or cannot be so."""
    now_us, told_us = time.time_ns() // 1000, event.event_time.ToMicroseconds()
    return told_us if 0 < told_us < now_us + AHEAD_US_MAX else now_us


def _event(link: Link) -> AuditEvent:
    entry = link.entry
    event = AuditEvent(
        sequence=entry.sequence,
        # Words that this version does not know were written by a later one.
        action=_known(f"AUDIT_ACTION_{entry.action}", _ACTIONS, "AUDIT_ACTION_UNSPECIFIED"),
        outcome=_known(f"AUDIT_OUTCOME_{entry.outcome}", _OUTCOMES, "AUDIT_OUTCOME_UNSPECIFIED"),
        user_id=entry.user_id,
        organization_id=entry.organization_id,
        service=entry.service,
        object=entry.object,
        reason=entry.reason,
        details=entry.details,
        hash=link.hash,
        event_id=entry.event_id,
    )
    event.event_time.FromMicroseconds(entry.event_time_us)
    event.record_time.FromMicroseconds(entry.record_time_us)
    return event


def _beyond(request: pb.ListAuditEventsRequest) -> int | None:
    if request.newest_first and request.after_sequence:
        raise InvalidRequest([Violation("after_sequence", "cannot be told together with newest_first")])
    if not request.page_token:
        return request.after_sequence or None
    if not request.page_token.isdecimal() or len(request.page_token) > 18:
        raise InvalidRequest([Violation("page_token", "is not one that this service gave")])
    return int(request.page_token)


def _word(name: str) -> str:
    return name.removeprefix("AUDIT_ACTION_").removeprefix("AUDIT_OUTCOME_")


def _known(name: str, names: Collection[str], otherwise: str) -> str:
    return name if name in names else otherwise
