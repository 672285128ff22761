"""Does a part answer? Each probe asks for the least that proves it works, and gives up after a second."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from msgspec import Struct

if TYPE_CHECKING:
    import grpc

PROBE_WITHIN_S = 1.0
BODY_MAX_BYTES = 4096


class PostgresProbe(Struct, frozen=True, tag=True):
    port: int
    password_file: str


class RedisProbe(Struct, frozen=True, tag=True):
    port: int
    password_file: str


class HttpProbe(Struct, frozen=True, tag=True):
    port: int
    path: str
    says: str  # Must be in the body.


class GrpcProbe(Struct, frozen=True, tag=True):
    port: int
    host: str
    tls: str = ""  # The folder of the certificate to ask with; without it in plain text.
    name: str = ""  # Whose certificate the part must have.


Probe = PostgresProbe | RedisProbe | HttpProbe | GrpcProbe


class ProbeError(Exception):
    """Why the part is not ready, as a clause about it."""


class NotServingError(ProbeError):
    """It runs and answers, and says itself that it cannot do its work."""

    def __init__(self) -> None:
        super().__init__("it is up, but says that it cannot serve")


class HopelessError(ProbeError):
    """It will not become ready by waiting."""


async def check(probe: Probe) -> None:
    """Return if the part is ready. Raises ProbeError."""
    try:
        async with asyncio.timeout(PROBE_WITHIN_S):
            await _ask(probe)
    except TimeoutError as error:
        raise ProbeError(f"it did not answer within {PROBE_WITHIN_S:g} s") from error
    except OSError as error:
        raise ProbeError(f"nothing answers on port {probe.port}") from error


def _ask(probe: Probe) -> Awaitable[None]:
    match probe:
        case PostgresProbe():
            return _ask_postgres(probe)
        case RedisProbe():
            return _ask_redis(probe)
        case HttpProbe():
            return _ask_http(probe)
        case GrpcProbe():
            return _ask_grpc(probe)
        case _:
            assert_never(probe)


async def _ask_postgres(probe: PostgresProbe) -> None:
    import asyncpg

    from deploy.local.postgres import ADMIN, dsn

    password = _read(probe.password_file)
    try:
        url = dsn(port=probe.port, database="postgres", role=ADMIN, password=password)
        connection = await asyncpg.connect(url, ssl=False)
        try:
            await connection.execute("SELECT 1")
        finally:
            await connection.close()
    except asyncpg.InvalidPasswordError as error:
        raise HopelessError(
            f"it refuses the password in {probe.password_file}, which is not the one its data were made with; "
            "restore that file, or remove the data to start empty"
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ProbeError(f"it says: {error}") from error


async def _ask_redis(probe: RedisProbe) -> None:
    password = _read(probe.password_file)
    async with _connected(probe.port) as (reader, writer):
        writer.write(f"AUTH {password}\r\nPING\r\n".encode())
        for wanted in (b"+OK", b"+PONG"):
            if not (answer := await reader.readline()).startswith(wanted):
                raise ProbeError(f"it says: {answer.decode(errors='replace').strip()}")


async def _ask_http(probe: HttpProbe) -> None:
    async with _connected(probe.port) as (reader, writer):
        writer.write(f"GET {probe.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while len(answer) < BODY_MAX_BYTES and (more := await reader.read(BODY_MAX_BYTES)):
            answer += more
    status = answer.partition(b"\r\n")[0].decode(errors="replace")
    if " 200 " not in f"{status} " or probe.says.encode() not in answer:
        raise ProbeError(f"GET {probe.path} is answered with {status or 'nothing'}")


async def _ask_grpc(probe: GrpcProbe) -> None:
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

    async with _grpc_channel(probe) as channel:
        check_health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            reply = await check_health(HealthCheckRequest(), timeout=PROBE_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            raise ProbeError(f"its health check ends with {error.code().name}") from error
    if reply.status != HealthCheckResponse.SERVING:
        raise NotServingError


def _grpc_channel(probe: GrpcProbe) -> "grpc.aio.Channel":
    import grpc

    from services.common.certificates import CertificateError, Files, read
    from services.common.grpc.tls import channel_credentials, must_be

    # A pool of its own: otherwise a refused attempt makes the next one wait. And no proxy for loopback.
    options: list[tuple[str, str | int]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    target = f"[{probe.host}]:{probe.port}" if ":" in probe.host else f"{probe.host}:{probe.port}"
    if not probe.tls:
        return grpc.aio.insecure_channel(target, options=options)
    try:
        material = read(Files.of(Path(probe.tls)))
    except CertificateError as error:
        raise ProbeError(f"it cannot be asked: the certificate in {probe.tls} {error}") from error
    return grpc.aio.secure_channel(
        target, channel_credentials(material), options=[*options, must_be(probe.name)]
    )


def _read(secret: str) -> str:
    return Path(secret).read_text()


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
