"""The real stack inside: every part refuses whoever cannot prove to be a part that may call it."""

import socket
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from deploy.local import stack
from deploy.local.identities import files_of
from deploy.local.settings import Settings
from services.common.certificates import Files, read
from services.common.grpc.tls import channel_credentials, must_be
from tests.fakes.authority import Authority

SERVICES = ("auth", "agent", "inference", "sandbox")
TIMEOUT_S = 10
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def target_of(mesh: Settings, service: str) -> str:
    (part,) = [part for part in stack.status(mesh).parts if part.name == service]
    return f"127.0.0.1:{part.port}"


def health(channel: grpc.Channel) -> grpc.StatusCode:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    try:
        check(HealthCheckRequest(), timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def asked(target: str, name: str, credentials: grpc.ChannelCredentials) -> grpc.StatusCode:
    options = [must_be(name), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(target, credentials, options=options) as channel:
        return health(channel)


@pytest.mark.parametrize("service", SERVICES)
def test_only_who_is_on_the_list_gets_in(mesh: Settings, service: str, tmp_path: Path) -> None:
    target, name = target_of(mesh, service), f"{service}.default.ollamesh"
    operator = files_of(mesh.home, "operator")
    ours = read(operator).authorities
    assert asked(target, name, channel_credentials(read(operator))) is grpc.StatusCode.OK
    assert asked(target, "edge.default.ollamesh", channel_credentials(read(operator))) is UNAVAILABLE
    if service != "auth":  # Which all call; the others are called by some, and by neither of these.
        other = channel_credentials(
            read(files_of(mesh.home, "inference" if service == "sandbox" else "sandbox"))
        )
        assert asked(target, name, other) is grpc.StatusCode.PERMISSION_DENIED
    forged = Authority().issue("edge", tmp_path / "forged")
    (tmp_path / "ca.crt").write_bytes(ours)
    stranger = Files(certificate=forged.certificate, key=forged.key, authorities=tmp_path / "ca.crt")
    assert asked(target, name, channel_credentials(read(stranger))) is UNAVAILABLE
    assert asked(target, name, grpc.ssl_channel_credentials(ours)) is UNAVAILABLE
    with grpc.insecure_channel(target) as plain:
        assert health(plain) is UNAVAILABLE
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert raw.recv(1024) in {b"", b"\x15\x03\x01\x00\x02\x02\x46"}, "not a byte of HTTP/2"
