"""Audit events over gRPC: a service's trail to the auth service, and refused calls for it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import grpc
import grpc.aio
from ollamesh.auth.v1.audit_pb2 import AuditEvent
from ollamesh.auth.v1.auth_service_pb2 import RecordAuditEventsRequest
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from prometheus_client import CollectorRegistry

from services.common.audit import Trail
from services.common.auditing.config import AuditConfig
from services.common.auditing.denials import Denials
from services.common.auditing.opening import opened_trail
from services.common.auditing.records import Record
from services.common.auditing.trail import DELIVER_S_MAX, BufferedTrail, ChainAway, RecordsRefused
from services.common.errors import Kind, MeshError
from services.common.grpc.caller import known_caller
from services.common.grpc.client import channel
from services.common.grpc.keys import TrustConfig
from services.common.inside import Inside

# A method and why it was refused.
Denied = Callable[[str, MeshError], None]

# Whoever is refused because of who they say they are; auth itself tells the trail of attempts to prove it.
_DENIALS = frozenset({Kind.UNAUTHENTICATED, Kind.DENIED})
_TOLD_BY_OTHERS = frozenset({"CREDENTIALS_INVALID"})


@asynccontextmanager
async def audit_trail(
    config: AuditConfig, trust: TrustConfig, service: str, registry: CollectorRegistry, *, inside: Inside
) -> AsyncIterator[BufferedTrail]:
    """A service's trail to the auth service, for as long as the service runs."""
    async with channel(trust.auth_target, inside=inside, to="auth") as auth:
        stub = AuthServiceStub(auth)

        async def deliver(records: Sequence[Record]) -> None:
            request = RecordAuditEventsRequest(request_id=uuid4().hex, events=map(event_of, records))
            try:
                await stub.RecordAuditEvents(request, timeout=DELIVER_S_MAX)
            except grpc.aio.AioRpcError as error:
                refused = error.code() is grpc.StatusCode.INVALID_ARGUMENT
                raise (RecordsRefused if refused else ChainAway) from error

        async with opened_trail(config, service, deliver, registry) as trail:
            yield trail


def denials(trail: Trail) -> Denied:
    """What `errors` tells of refused calls, for the trail."""
    known = Denials(trail)

    def denied(method: str, error: MeshError) -> None:
        if error.kind not in _DENIALS or error.reason in _TOLD_BY_OTHERS:
            return
        who = known_caller()
        known.note(
            object=method,
            reason=error.reason,
            user_id=who.user_id if who else "",
            organization_id=who.organization_id if who else "",
        )

    return denied


def event_of(record: Record) -> AuditEvent:
    happened = record.happened
    event = AuditEvent(
        event_id=str(record.event_id),
        action=f"AUDIT_ACTION_{happened.action.name}",
        outcome=f"AUDIT_OUTCOME_{happened.outcome.name}",
        user_id=happened.user_id,
        organization_id=happened.organization_id,
        service=record.service,
        object=happened.object,
        reason=happened.reason,
        details=happened.details,
    )
    event.event_time.FromMicroseconds(record.time_us)
    return event
