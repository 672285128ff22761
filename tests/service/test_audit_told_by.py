"""Whose word an audit event is: a service is known by its certificate, and tells only of itself."""

from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.audit_pb2 import AuditEvent
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub

from services.common.certificates import read
from services.common.grpc.tls import channel_credentials, must_be
from tests.fakes.authority import Authority
from tests.service.auth_app import TIMEOUT_S, config, failure, info, serving
from tests.stack import Database


def told(service: str) -> pb.RecordAuditEventsRequest:
    event = AuditEvent(
        action="AUDIT_ACTION_LOGIN", outcome="AUDIT_OUTCOME_ALLOWED", user_id="user:admin", service=service
    )
    return pb.RecordAuditEventsRequest(request_id=f"as-{service}", events=[event])


async def test_a_service_tells_of_itself_and_not_as_another(database: Database, tmp_path: Path) -> None:
    authority = Authority()
    inside = authority.inside("auth", tmp_path)
    settings = config(database("auth"))
    settings = replace(settings, server=replace(settings.server, inside=inside))
    async with serving(settings, wait=False) as auth:
        files = authority.issue("sandbox", tmp_path / "sandbox")
        channel = grpc.aio.secure_channel(
            f"127.0.0.1:{auth.port}",
            channel_credentials(read(files)),
            options=[must_be(inside.dns_name("auth"))],
        )
        async with channel:
            stub = AuthServiceStub(channel)
            answer = await stub.RecordAuditEvents(told("sandbox"), timeout=TIMEOUT_S)
            assert answer.last_sequence >= 1
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.RecordAuditEvents(told("auth"), timeout=TIMEOUT_S)
    assert failure(refused.value)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert info(refused.value).reason == "INVALID_REQUEST"
