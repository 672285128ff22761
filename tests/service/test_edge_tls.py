"""TLS at the edge: what it takes, whom it lets in, and how a certificate changes while it is used."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from cryptography import x509
from ollamesh.client import Client, Password

from deploy.local import certificate
from deploy.local.certificate import CertificateFiles
from deploy.local.ports import free_ports
from tests.service import auth_app, edge_app
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import Stack, stat
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOSTS = ("localhost", "127.0.0.1")
CALLERS = 4


@dataclass(frozen=True, slots=True)
class Secured:
    stack: Stack
    files: CertificateFiles


def settings(files: CertificateFiles, **more: str) -> dict[str, str]:
    """An edge with nobody behind it: what is asked here, it answers by itself."""
    (nobody,) = free_ports(1)
    return edge_app.settings(
        nobody,
        {},
        OLLAMESH_EDGE_CERT_FILE=str(files.certificate),
        OLLAMESH_EDGE_KEY_FILE=str(files.key),
        **more,
    )


def made(folder: Path, usage: x509.ObjectIdentifier = certificate.SERVER) -> CertificateFiles:
    files = CertificateFiles(folder)
    certificate.make(files, HOSTS, usage=usage)
    return files


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    files = made(tmp_path_factory.mktemp("tls"))
    async with edge_app.serving(settings(files)) as stack:
        yield Secured(stack, files)


def trusting(*files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for one in files:
        context.load_verify_locations(one.ca)
    return context


async def handshake(port: int, context: ssl.SSLContext) -> tuple[ssl.SSLObject, bytes]:
    """The session, and the certificate that the edge showed. Raises OSError if it is refused."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    try:
        session: ssl.SSLObject = writer.get_extra_info("ssl_object")
        shown = session.getpeercert(binary_form=True) or b""
        writer.write(b"GET / HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n")
        answer = await reader.readline()  # In TLS 1.3 a refusal comes after the client's handshake.
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return session, shown
    finally:
        writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_today_are_spoken(secured: Secured, version: ssl.TLSVersion) -> None:
    context = trusting(secured.files)
    context.minimum_version = context.maximum_version = version
    session, _ = await handshake(secured.stack.tls_port, context)
    assert session.version() == version.name.replace("_", ".")
    cipher = session.cipher()
    assert cipher is not None
    assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_older_versions_are_refused(secured: Secured, version: ssl.TLSVersion) -> None:
    context = trusting(secured.files)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(OSError, match=r"(?i)alert|protocol|reset|eof"):
        await handshake(secured.stack.tls_port, context)


@pytest.mark.parametrize("suites", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"])
async def test_suites_without_forward_secrecy_or_authentication_are_refused(
    secured: Secured, suites: str
) -> None:
    context = trusting(secured.files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    with pytest.raises(OSError, match=r"(?i)alert|handshake|reset|eof"):
        await handshake(secured.stack.tls_port, context)


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["spdy/3"], None)]
)
async def test_the_protocol_is_agreed_on_in_the_handshake(
    secured: Secured, offered: list[str], chosen: str | None
) -> None:
    context = trusting(secured.files)
    context.set_alpn_protocols(offered)
    _, writer = await asyncio.open_connection(
        "127.0.0.1", secured.stack.tls_port, ssl=context, server_hostname="localhost"
    )
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
    writer.close()


async def test_plain_text_is_not_answered_where_tls_is_spoken(secured: Secured) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", secured.stack.tls_port)
    writer.write(b"GET / HTTP/1.1\r\nhost: edge\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        assert b"HTTP" not in await reader.read()
    writer.close()


async def test_browsers_are_told_to_come_with_tls_only_where_they_did(secured: Secured) -> None:
    async with secured.stack.http.get(secured.stack.tls_url + "/", ssl=trusting(secured.files)) as answer:
        assert answer.headers["strict-transport-security"] == f"max-age={365 * 86_400}"
    async with secured.stack.http.get(secured.stack.url + "/") as answer:
        assert "strict-transport-security" not in answer.headers


async def test_a_new_certificate_is_used_at_once_and_no_request_is_lost(tmp_path: Path) -> None:
    old, new = made(tmp_path / "used"), made(tmp_path / "new")
    both = trusting(old, new)
    both.load_verify_locations(old.ca)
    shown: list[bytes] = []
    rotated, enough = asyncio.Event(), asyncio.Event()

    async def keep_connecting(stack: Stack) -> None:
        while not enough.is_set():
            _, one = await handshake(stack.tls_port, both)
            shown.append(one)
            if rotated.is_set() and len(set(shown)) > 1:
                enough.set()

    async def keep_asking(stack: Stack) -> int:
        """Over one connection, that was there before."""
        count = 0
        async with aiohttp.ClientSession() as http:
            while not enough.is_set():
                async with http.get(stack.tls_url + "/", ssl=both) as answer:
                    assert answer.status == 200
                count += 1
        return count

    async with edge_app.serving(settings(old)) as stack, asyncio.timeout(3 * TIMEOUT_S):
        async with asyncio.TaskGroup() as callers:
            asking = callers.create_task(keep_asking(stack))
            for _ in range(CALLERS):
                callers.create_task(keep_connecting(stack))
            while len(shown) < 20:
                await asyncio.sleep(0.01)
            new.key.replace(old.key)  # For a moment the two do not belong together.
            handled = len(shown)
            while len(shown) < handled + 20:
                await asyncio.sleep(0.01)
            assert len(set(shown)) == 1
            new.certificate.replace(old.certificate)
            rotated.set()
        assert asking.result() > 0
        for _ in range(10):
            assert (await handshake(stack.tls_port, both))[1] == shown[-1] != shown[0]


async def test_callers_with_certificates(tmp_path: Path) -> None:
    files = made(tmp_path / "edge")
    client, stranger = (made(tmp_path / name, certificate.CLIENT) for name in ("client", "stranger"))
    nobody, known, unknown = trusting(files), trusting(files), trusting(files)
    known.load_cert_chain(client.certificate, client.key)
    unknown.load_cert_chain(stranger.certificate, stranger.key)
    for required, without in (("true", False), ("false", True)):
        more = {"OLLAMESH_EDGE_CLIENT_CA": str(client.ca), "OLLAMESH_EDGE_CLIENT_REQUIRED": required}
        async with edge_app.serving(settings(files, **more)) as stack:
            await handshake(stack.tls_port, known)
            assert await is_let_in(stack, nobody) is without
            assert await is_let_in(stack, unknown) is False
            assert await stat(stack, "listener.tls.ssl.fail_verify_error") > 0


async def is_let_in(stack: Stack, context: ssl.SSLContext) -> bool:
    """TLS 1.3 tells its refusal after the client's part is done: then there is no answer."""
    try:
        await handshake(stack.tls_port, context)
    except (OSError, AssertionError):
        return False
    return True


async def test_our_client_comes_through_tls_and_believes_only_who_it_was_told_to(
    module_database: Database, tmp_path: Path
) -> None:
    files, other = made(tmp_path / "edge"), made(tmp_path / "other")
    more = {"OLLAMESH_EDGE_CERT_FILE": str(files.certificate), "OLLAMESH_EDGE_KEY_FILE": str(files.key)}
    async with edge_app.whole(auth_app.config(module_database("auth")), **more) as world:
        who, url = Password("admin", auth_app.ADMIN_PASSWORD), f"https://localhost:{world.stack.tls_port}"
        async with Client(url, who, ca=files.ca) as client:
            assert (await client.access_token()).value
        async with Client(url, who, ca=other.ca, deadline_s=1) as client:
            with pytest.raises(Exception, match=r"(?i)certificate|handshake|unavailable|reach|connect"):
                await client.access_token()
        with pytest.raises(ValueError, match="cannot be read"):
            Client(url, who, ca=tmp_path / "nothing")
