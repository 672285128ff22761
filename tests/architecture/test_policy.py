"""Every method of every proto has its row in the policy table, and every row its method."""

from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor
from ollamesh.agent.v1 import agent_service_pb2
from ollamesh.auth.v1 import auth_service_pb2, oauth_service_pb2
from ollamesh.compat.envoy.v3 import ext_authz_pb2, rls_pb2
from ollamesh.compat.ollama.v1 import ollama_service_pb2
from ollamesh.compat.openai.v1 import openai_batch_service_pb2, openai_service_pb2
from ollamesh.inference.v1 import health_service_pb2, inference_service_pb2
from ollamesh.sandbox.v1 import sandbox_service_pb2

from services.common.policy import POLICY, WITH_TOKEN, Access

SERVICES: list[ServiceDescriptor] = [
    service
    for module in (
        agent_service_pb2,
        auth_service_pb2,
        ext_authz_pb2,
        oauth_service_pb2,
        inference_service_pb2,
        health_service_pb2,
        ollama_service_pb2,
        openai_service_pb2,
        openai_batch_service_pb2,
        rls_pb2,
        sandbox_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS = {f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
# What is no business of ours but served by every service.
INFRASTRUCTURE = ("/grpc.health.", "/grpc.reflection.")


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert {method for method in POLICY if not method.startswith(INFRASTRUCTURE)} == METHODS


def test_nothing_is_public_but_what_proves_itself() -> None:
    public = {method for method in METHODS if POLICY[method].access is Access.PUBLIC}
    assert public == {
        "/ollamesh.auth.v1.AuthService/Login",
        "/ollamesh.auth.v1.AuthService/ExchangeToken",
        "/ollamesh.auth.v1.OAuthService/GetServerMetadata",
        "/ollamesh.auth.v1.OAuthService/GetJwks",
        "/ollamesh.auth.v1.OAuthService/Token",
        "/ollamesh.auth.v1.OAuthService/Revoke",
        "/ollamesh.auth.v1.OAuthService/Introspect",
        "/ollamesh.auth.v1.OAuthService/AuthorizeDevice",
        "/ollamesh.auth.v1.OAuthService/ReportLeakedKey",
        "/ollamesh.auth.v1.OAuthService/ShowSignIn",
        "/ollamesh.auth.v1.OAuthService/SubmitSignIn",
        "/ollamesh.auth.v1.OAuthService/BeginFederatedSignIn",
        "/ollamesh.auth.v1.OAuthService/FinishFederatedSignIn",
        "/ollamesh.auth.v1.OAuthService/ShowDevice",
        "/ollamesh.auth.v1.OAuthService/SubmitDevice",
        "/ollamesh.auth.v1.OAuthService/EndSession",
        "/ollamesh.inference.v1.HealthService/GetHealth",
    }


def test_what_the_protos_call_admin_needs_an_admin() -> None:
    """The comment of a method is what its caller reads; the table is what holds."""
    for service in SERVICES:
        source = _comments(service)
        for method in service.methods:
            access = POLICY[f"/{service.full_name}/{method.name}"].access
            comment = source[method.name]
            assert ("Role: admin" in comment) == (access in {Access.ADMIN, Access.OPERATOR}), method.name
            assert ("founding organisation" in comment) == (access is Access.OPERATOR), method.name
            assert ("Callers: services" in comment) == (access is Access.SERVICE), method.name


MESH = {"auth", "agent", "inference", "sandbox", "edge"}


def test_every_row_is_whole() -> None:
    """A token is asked for with its audience and its scope; services are named; and never both."""
    for method, row in POLICY.items():
        wants_token = row.access in WITH_TOKEN
        assert (row.audience is not None) == (row.scope is not None) == wants_token, method
        assert bool(row.callers) == (row.access is Access.SERVICE), method
        assert row.callers <= MESH, method
        if wants_token:
            served_by = "inference" if method.startswith("/ollamesh.compat.") else method.split(".")[1]
            assert row.audience == row.scope == served_by, method


def _comments(service: ServiceDescriptor) -> dict[str, str]:
    """Each method's comment, read from the proto: generated modules carry none."""
    text = (Path(__file__).parents[2] / "protos" / service.file.name).read_text()
    comments: dict[str, str] = {}
    gathered: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("//"):
            gathered.append(line.removeprefix("//").strip())
        elif line.startswith("rpc "):
            comments[line.removeprefix("rpc ").split("(")[0]] = " ".join(gathered)
        if not line.startswith("//"):
            gathered = []
    return comments
