"""What services other than auth tell the audit trail, and what they refuse while nobody records it."""

import asyncio
import hashlib
from collections.abc import Callable

import grpc
from ollamesh.agent.v1 import agent_service_pb2 as agent_pb
from ollamesh.auth.v1.audit_pb2 import AuditAction, AuditEvent, AuditOutcome
from ollamesh.inference.v1 import inference_service_pb2 as inference_pb
from ollamesh.inference.v1 import model_pb2

from services.common.tokens import Caller, Role
from services.sandbox.core.lifecycle import Outcome, Verdict
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.execution import Exited, Usage
from services.sandbox.executions_told import teller
from tests.fakes.fake_ollama import FakeOllama, fake_model
from tests.fakes.identity import Identity
from tests.fakes.trail import KeptTrail
from tests.service.agent_app import mesh
from tests.service.inference_app import TINY, refused, serving_for
from tests.stack import Database

NEW = fake_model("new:latest", "completion", size_bytes=100)
WITHIN_S = 10


async def told(identity: Identity, wanted: Callable[[AuditEvent], bool]) -> AuditEvent:
    async with asyncio.timeout(WITHIN_S):
        while not (found := [event for event in identity.audited if wanted(event)]):
            await asyncio.sleep(0.01)
    return found[0]


def about(event: AuditEvent) -> tuple[str, ...]:
    words = (AuditAction.Name(event.action), AuditOutcome.Name(event.outcome))
    return (*(word.partition("_")[2].partition("_")[2] for word in words), event.object)


async def test_what_admins_do_to_models_is_told_before_it_is_done() -> None:
    identity = Identity()
    async with FakeOllama(TINY, parallel=4) as fake, serving_for(identity, fake.url) as service:
        fake.offer(NEW)
        pulling = service.call("PullModel", model_pb2.PullModelRequest(model="new"), role="admin")
        async for _ in pulling:
            assert about(identity.audited[0]) == ("MODEL_CHANGED", "ALLOWED", "model/new")
        await service.call("DeleteModel", model_pb2.DeleteModelRequest(model="new"), role="admin")
        deleted = identity.audited[1]
        assert about(deleted) == ("MODEL_CHANGED", "ALLOWED", "model/new")
        assert (deleted.service, deleted.details["act"]) == ("inference", "delete")
        assert deleted.user_id


async def test_a_refused_call_is_told() -> None:
    identity = Identity()
    async with FakeOllama(TINY, parallel=4) as fake, serving_for(identity, fake.url) as service:
        denied = await refused(service.call("PullModel", model_pb2.PullModelRequest(model="new")))
        assert denied.reason == "ROLE_REQUIRED"
        event = await told(identity, lambda _: True)
        assert about(event) == (
            "ACCESS_DENIED",
            "DENIED",
            "/ollamesh.inference.v1.InferenceService/PullModel",
        )
        assert (event.reason, event.user_id) == ("ROLE_REQUIRED", "user-1")


async def test_while_nobody_records_it_models_stay_as_they_are_and_answers_go_on() -> None:
    identity = Identity()
    identity.records = False
    async with FakeOllama(TINY, parallel=4) as fake, serving_for(identity, fake.url) as service:
        fake.offer(NEW)
        for method, request in (
            ("PullModel", model_pb2.PullModelRequest(model="new")),
            ("DeleteModel", model_pb2.DeleteModelRequest(model="tiny")),
            ("PurgeCache", inference_pb.PurgeCacheRequest()),
        ):
            failed = await refused(service.call(method, request, role="admin"))
            assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
            assert failed.retry_after_ms is not None
        assert not fake.asked("/api/pull")
        assert not fake.asked("/api/delete")
        fake.script("a")
        async for _ in service.chat():
            pass


async def test_a_deleted_thread_is_told(database: Database) -> None:
    async with mesh(database("agent")) as around, around.replica() as app:
        user = app.user("ann", org="o")
        thread_id = await user.thread()
        await user.stub.DeleteThread(agent_pb.DeleteThreadRequest(thread_id=thread_id), **user.options)
        event = await told(around.identity, lambda _: True)
        assert about(event) == ("DATA_DELETED", "ALLOWED", f"thread/{thread_id}")
        assert (event.service, event.user_id, event.organization_id) == ("agent", "ann", "o")


WHO = Caller(
    user_id="user:ann",
    role=Role.USER,
    organization_id="o",
    project_id="p",
    client_id="c",
    scopes=frozenset(),
    token_id="t",
    expires_at_s=0,
    token="",
)


def test_an_execution_is_told_by_the_hash_of_its_code_and_never_by_the_code() -> None:
    noted, code = KeptTrail(), b"print('a secret of mine')"
    tell = teller(noted, WHO, code)
    usage = Usage(wall_s=1.5, cpu_s=0.25, peak_memory_bytes=4096)
    tell("e-1", Exited(Verdict(Outcome.TIMEOUT, exit_code=0, signal=9), usage, frozenset()))
    tell("e-2", SandboxUnavailable(problem="no jail"))
    first, second = noted.events
    assert (first.object, first.reason, first.outcome.name) == ("execution/e-1", "TIMEOUT", "FAILED")
    assert first.details["code_sha256"] == hashlib.sha256(code).hexdigest()
    assert (first.details["wall_s"], first.details["peak_memory_bytes"]) == ("1.500", "4096")
    assert second.reason == "SANDBOX_UNAVAILABLE"
    assert "secret" not in str(noted.events)
