"""mTLS inside, over real sockets: who is refused, who is let in, and certificates that change under load."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from ollamesh.inference.v1.completion_pb2 import ChatRequest, ChatResponse, Message, Role
from ollamesh.inference.v1.fleet_pb2 import GetFleetRequest, GetFleetResponse
from ollamesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from prometheus_client import CollectorRegistry

from services.common.certificates import LOOK_EVERY_S, expiry_watched, read
from services.common.grpc.around import Context
from services.common.grpc.client import channel, held
from services.common.grpc.errors import errors
from services.common.grpc.peer import peer_service
from services.common.grpc.server import Server, ServerConfig
from services.common.grpc.tls import channel_credentials, must_be
from services.common.inside import Inside
from tests.fakes.authority import DAY_S, Authority

TIMEOUT_S = 20
SERVICES = ("auth", "agent", "inference", "sandbox")
CALLERS = (*SERVICES, "edge", "operator")
CHAT = ChatRequest(model="tiny", messages=[Message(role=Role.ROLE_USER, content="hello")])


class Servicer(InferenceServiceServicer):
    """Remembers who called; streams until it is told to stop."""

    def __init__(self) -> None:
        self.peers: list[str | None] = []
        self.certificate = b""  # Of the last caller.
        self.stop, self.sent_count = asyncio.Event(), 0

    async def GetFleet(self, request: GetFleetRequest, context: Context) -> GetFleetResponse:
        self.peers.append(peer_service(context))
        (self.certificate,) = context.auth_context().get("x509_pem_cert", [b""])
        return GetFleetResponse()

    async def Chat(self, request: ChatRequest, context: Context) -> AsyncIterator[ChatResponse]:
        while not self.stop.is_set():
            self.sent_count += 1
            yield ChatResponse()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    inside: Inside, servicer: Servicer | None = None, *, connection_age_s: float = 3600
) -> AsyncIterator[str]:
    config = ServerConfig(
        inside=inside,
        bind="127.0.0.1",
        port=0,
        metrics_port=0,
        reflection=False,
        lame_duck_s=0,
        grace_s=1,
        connection_age_s=connection_age_s,
    )
    server = Server(config, [errors(f"{inside.service}.ollamesh")])
    add_InferenceServiceServicer_to_server(servicer or Servicer(), server.grpc)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def ready() -> bool:
        return True

    running = asyncio.create_task(server.serve(stop, services=(), ready=ready, started=port.set_result))
    try:
        yield f"127.0.0.1:{await port}"
    finally:
        stop.set()
        await running


async def ask(asked: grpc.aio.Channel) -> GetFleetResponse:
    reply: GetFleetResponse = await InferenceServiceStub(asked).GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)
    return reply


async def refused(asked: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await ask(asked)
    return failed.value


def reason(error: grpc.aio.AioRpcError) -> str:
    trailing = dict(error.trailing_metadata() or ())
    status, info = Status.FromString(trailing["grpc-status-details-bin"]), ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    found: str = info.reason
    return found


@pytest.fixture
def authority() -> Authority:
    return Authority()


async def test_services_that_know_each_other_talk(authority: Authority, tmp_path: Path) -> None:
    servicer = Servicer()
    async with (
        serving(authority.inside("inference", tmp_path), servicer) as target,
        channel(target, inside=authority.inside("agent", tmp_path), to="inference") as asked,
    ):
        await ask(asked)
        await ask(asked)
    assert servicer.peers == ["agent", "agent"]


@pytest.mark.parametrize("service", SERVICES)
async def test_strangers_are_refused(service: str, authority: Authority, tmp_path: Path) -> None:
    inside, other = authority.inside(service, tmp_path), Authority()
    trusting = other.issue("edge", tmp_path / "other-edge", trusts=(authority,))
    expired = authority.issue("edge", tmp_path / "old-edge", life_s=-60)
    edge = read(authority.issue("edge", tmp_path / "edge"))
    async with serving(inside) as target:
        named = [must_be(inside.dns_name(service)), ("grpc.use_local_subchannel_pool", 1)]
        for credentials in (
            grpc.ssl_channel_credentials(edge.authorities),  # No certificate of its own.
            channel_credentials(read(trusting)),
            channel_credentials(read(expired)),
        ):
            async with grpc.aio.secure_channel(target, credentials, options=named) as asked:
                assert (await refused(asked)).code() is grpc.StatusCode.UNAVAILABLE
        async with grpc.aio.insecure_channel(target) as asked:
            assert (await refused(asked)).code() is grpc.StatusCode.UNAVAILABLE
        async with grpc.aio.secure_channel(target, channel_credentials(edge), options=named) as asked:
            await ask(asked)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_server_that_is_not_who_it_should_be_gets_no_call(
    service: str, authority: Authority, tmp_path: Path
) -> None:
    other, edge = Authority(), authority.inside("edge", tmp_path)
    trusted = authority.issue("edge", tmp_path / "edge", trusts=(authority, other))
    impostors = [
        authority.inside("agent" if service == "auth" else "auth", tmp_path),
        Inside(service=service, files=authority.issue(service, tmp_path / "far", trust_domain="other")),
        Inside(service=service, files=authority.issue(service, tmp_path / "old", life_s=-60)),
        Inside(service=service, files=Authority().issue(service, tmp_path / "alien", trusts=(authority,))),
        Inside.plain(service),
    ]
    for impostor in impostors:
        servicer = Servicer()
        async with serving(impostor, servicer) as target, channel(target, inside=edge, to=service) as asked:
            assert (await refused(asked)).code() is grpc.StatusCode.UNAVAILABLE
        assert servicer.peers == []
    assert trusted == edge.files
    async with (
        serving(
            Inside(service=service, files=other.issue(service, tmp_path / "ok", trusts=(authority,)))
        ) as target,
        channel(target, inside=edge, to=service) as asked,
    ):
        await ask(asked)


@pytest.mark.parametrize("service", SERVICES)
async def test_the_list_of_callers_is_kept(service: str, authority: Authority, tmp_path: Path) -> None:
    allowed = {
        "auth": {"auth", "agent", "inference", "sandbox", "edge"},
        "agent": {"edge"},
        "inference": {"agent", "edge"},
        "sandbox": {"agent", "edge"},
    }[service]
    async with serving(authority.inside(service, tmp_path)) as target:
        for caller in CALLERS:
            inside = Inside(service=caller, files=authority.issue(caller, tmp_path / "callers" / caller))
            async with channel(target, inside=inside, to=service) as asked:
                assert await _admitted(ask(asked)) is (caller in allowed), caller
                assert await _admitted(_health(asked)) is (caller in {*allowed, "operator", service}), caller


async def _admitted(asking: Awaitable[object]) -> bool:
    try:
        await asking
    except grpc.aio.AioRpcError as error:
        if (error.code(), reason(error)) != (grpc.StatusCode.PERMISSION_DENIED, "PEER_NOT_ALLOWED"):
            raise
        return False
    return True


async def _health(asked: grpc.aio.Channel) -> None:
    check = asked.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    await check(HealthCheckRequest(), timeout=TIMEOUT_S)


async def test_a_good_certificate_of_another_domain_or_of_nobody_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.inside("auth", tmp_path)) as target:
        far = Inside(service="edge", files=authority.issue("edge", tmp_path / "far", trust_domain="other"))
        async with channel(target, inside=far, to="auth") as asked:
            assert reason(await refused(asked)) == "PEER_NOT_ALLOWED"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_of_tls_are_refused(authority: Authority, tmp_path: Path) -> None:
    edge = authority.issue("edge", tmp_path / "edge")

    def connect(target: str, version: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("ALL:@SECLEVEL=0")  # This side would not offer it otherwise.
        context.minimum_version = context.maximum_version = version
        context.load_verify_locations(edge.authorities)
        context.load_cert_chain(edge.certificate, edge.key)
        context.set_alpn_protocols(["h2"])
        host, _, port = target.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        with plain, context.wrap_socket(plain, server_hostname="auth.default.ollamesh") as secure:
            return secure.version()

    async with serving(authority.inside("auth", tmp_path)) as target:
        for old in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises(OSError, match=r"EOF|reset|protocol"):  # The server just hangs up.
                await asyncio.to_thread(connect, target, old)
        for good, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            assert await asyncio.to_thread(connect, target, good) == name


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """New files are seen at the next call."""
    monkeypatch.setattr("services.common.certificates.LOOK_EVERY_S", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_leaves_and_authority_are_replaced_under_load(authority: Authority, tmp_path: Path) -> None:
    """Every step of a rotation, with 1,200 calls and a long stream going on: nothing fails, and nothing is old at the end."""
    new = Authority()
    server, client = tmp_path / "inference", tmp_path / "agent"
    # Who signs, and who is trusted, after each step; server and client take turns in being late.
    steps = [((authority,), authority), ((authority, new), authority), ((authority, new), new), ((new,), new)]
    servicer, done_count = Servicer(), 0
    inside, agent = authority.inside("inference", tmp_path), authority.inside("agent", tmp_path)

    async with serving(inside, servicer) as target, channel(target, inside=agent, to="inference") as asked:

        async def call(count: int) -> None:
            nonlocal done_count
            for _ in range(count):
                await ask(asked)
                done_count += 1

        with held(InferenceServiceStub(asked).Chat(CHAT, timeout=120)) as stream:
            await anext(aiter(stream))
            for trusts, signer in steps:
                for folder, service in ((server, "inference"), (client, "agent")):
                    signer.issue(service, folder, trusts=trusts)
                    async with asyncio.TaskGroup() as tasks:
                        for _ in range(5):
                            tasks.create_task(call(30))
            await anext(aiter(stream))
            servicer.stop.set()
            async for _ in stream:
                pass
            assert await stream.code() is grpc.StatusCode.OK
        assert done_count == 1200
        await _until_known_by(asked, servicer, tmp_path / "agent")
        # Who trusts only the old authority gets nowhere with the server as it is now.
        old = Inside(service="agent", files=authority.issue("agent", tmp_path / "late"))
        async with channel(target, inside=old, to="inference") as late:
            assert (await refused(late)).code() is grpc.StatusCode.UNAVAILABLE


async def _until_known_by(asked: grpc.aio.Channel, servicer: Servicer, folder: Path) -> None:
    newest = (folder / "tls.crt").read_bytes()
    async with asyncio.timeout(TIMEOUT_S):
        while servicer.certificate != newest:
            await ask(asked)


async def test_connections_grow_old_without_anybody_noticing(authority: Authority, tmp_path: Path) -> None:
    servicer = Servicer()
    inside, agent = authority.inside("inference", tmp_path), authority.inside("agent", tmp_path)
    async with (
        serving(inside, servicer, connection_age_s=0.2) as target,
        channel(target, inside=agent, to="inference") as asked,
    ):
        began_s = asyncio.get_running_loop().time()
        with held(InferenceServiceStub(asked).Chat(CHAT, timeout=TIMEOUT_S)) as stream:
            await anext(aiter(stream))
            while asyncio.get_running_loop().time() < began_s + 2 or len(servicer.peers) < 500:
                await ask(asked)
            servicer.stop.set()
            async for _ in stream:
                pass
            assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.usefixtures("at_once")
async def test_a_slow_reader_gets_all_of_a_stream_whose_channel_was_left(
    authority: Authority, tmp_path: Path
) -> None:
    servicer = Servicer()
    inside, agent = authority.inside("inference", tmp_path), authority.inside("agent", tmp_path)
    async with serving(inside, servicer) as target, channel(target, inside=agent, to="inference") as asked:
        with held(InferenceServiceStub(asked).Chat(CHAT, timeout=TIMEOUT_S)) as stream:
            first = aiter(stream)
            await anext(first)
            authority.issue("agent", tmp_path / "agent")
            await _until_known_by(asked, servicer, tmp_path / "agent")
            while servicer.sent_count < 20:
                await ask(asked)
            servicer.stop.set()
            for _ in range(50):  # The stream ends meanwhile, unread.
                await ask(asked)
            rest = [message async for message in stream]
            assert len(rest) == servicer.sent_count - 1
            assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.usefixtures("at_once")
async def test_a_certificate_that_does_not_work_is_no_reason_to_give_up_one_that_does(
    authority: Authority, tmp_path: Path
) -> None:
    servicer = Servicer()
    inside, agent = authority.inside("inference", tmp_path), authority.inside("agent", tmp_path)
    async with serving(inside, servicer) as target, channel(target, inside=agent, to="inference") as asked:
        await ask(asked)
        Authority().issue("agent", tmp_path / "agent")
        for _ in range(50):
            await ask(asked)
        authority.issue("agent", tmp_path / "agent")
        await _until_known_by(asked, servicer, tmp_path / "agent")


def test_the_time_until_expiry_is_published(authority: Authority, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    expiry_watched(registry, authority.issue("auth", tmp_path))
    left_s, authority_left_s = (
        registry.get_sample_value("ollamesh_certificate_expiry_seconds", {"name": name})
        for name in ("inside", "authority")
    )
    assert left_s is not None
    assert DAY_S - 60 < left_s <= DAY_S
    assert authority_left_s is not None
    assert DAY_S - 60 < authority_left_s <= DAY_S
    assert LOOK_EVERY_S <= 1
