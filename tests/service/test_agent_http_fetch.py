"""`http_fetch` against a real server, and against all that could lead it elsewhere."""

import asyncio
import gzip
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from deploy.local.certificate import CertificateFiles, make
from services.agent.adapters import http_fetch
from services.agent.adapters.http_fetch import BODY_BYTES_MAX, REDIRECTS_MAX, HttpFetch
from services.agent.adapters.tool_specs import FETCH_CHARS_MAX
from services.agent.core.egress import Egress
from services.agent.core.events import Channel
from services.agent.core.ids import Owner, ThreadId
from services.agent.ports import CallContext, Effect, ToolResult
from tests.service.agent_app import until

LOCAL = ["127.0.0.0/8"]
FOREVER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


def response(body: bytes = b"", *, status: str = "200 OK", kind: str = "text/plain", **headers: str) -> bytes:
    named = {"Content-Type": kind, "Content-Length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


@dataclass
class Site:
    """Answers paths with what it is told, and `endless` ones for ever."""

    pages: dict[str, bytes] = field(default_factory=dict)
    endless: dict[str, bytes] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)
    connected: int = 0
    port: int = 0

    @asynccontextmanager
    async def served(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Site"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            path = head.split(b" ")[1].decode()
            writer.write(self.pages.get(path, b""))
            while piece := self.endless.get(path):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connected -= 1
            writer.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().served() as site:
        yield site


def tool(
    site: Site,
    *,
    addresses: dict[str, Sequence[str]] | None = None,
    also: Sequence[str] = (),
    tls: ssl.SSLContext | None = None,
    private: Sequence[str] = LOCAL,
) -> HttpFetch:
    """It may fetch `site.test` and what is below it, on the site's port."""
    known = {"site.test": ["127.0.0.1"], "below.site.test": ["127.0.0.1"], **(addresses or {})}

    async def resolve(host: str, port: int) -> Sequence[str]:
        if host not in known:
            raise OSError
        return known[host]

    hosts = [f"site.test:{site.port}", f"*.site.test:{site.port}", *also]
    return HttpFetch(Egress.of(hosts, private), tls=tls, resolve=resolve)


async def fetch(fetching: HttpFetch, url: object, *, for_s: float = 30) -> ToolResult:
    async def write(channel: Channel, text: str) -> None:
        raise AssertionError("nothing is written while it is fetched")

    context = CallContext(
        deadline_s=asyncio.get_running_loop().time() + for_s,
        owner=Owner("o", "ann"),
        thread_id=ThreadId(UUID(int=1)),
        key="run:0",
        write=write,
        token="secret-token",
    )
    return await fetching.call({"url": url}, context)


async def test_a_page_is_read_as_its_text_and_nothing_is_told_of_us(site: Site) -> None:
    html = "<html><script>no</script><p>Caf\xe9 &amp; bar</p></html>".encode("iso-8859-1")
    site.pages["/a?b=c"] = response(html, kind="text/html; charset=ISO-8859-1", Set_Cookie="a=b")
    fetching, url = tool(site), f"http://site.test:{site.port}/a?b=c"
    for _ in range(2):
        result = await fetch(fetching, f"{url}#part")
        assert result == ToolResult(content=f"HTTP 200, {url}:\n\nCafé & bar", failed=False)
    for head in site.asked:
        sent = head.decode().lower()
        assert f"host: site.test:{site.port}\r\n" in sent
        assert sent.startswith("get /a?b=c http/1.1\r\n")
        assert "secret" not in sent
        assert "cookie" not in sent
        assert "authorization" not in sent


async def test_what_it_may_do_is_said() -> None:
    spec = HttpFetch(Egress.of(["a.test", *(f"b{n}.test" for n in range(30))])).spec
    assert (spec.effect, spec.is_confined, spec.returns_untrusted) == (Effect.EXTERNAL, False, True)
    assert not spec.is_repeatable
    assert "a.test, b0.test" in spec.description
    assert spec.description.endswith(", ....")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://127.1:{port}/",
        "http://0:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://localhost:{port}/",
        "http://elsewhere.test:{port}/",
        "http://site.test.:{port}/",
        "http://site.test/",
        "https://site.test/",
        "http://site.test@elsewhere.test:{port}/",
        "http://elsewhere.test:{port}/site.test",
        "http://elsewhere.test:{port}#@site.test:{port}/",
        "http://elsewhere.test:{port}?@site.test:{port}/",
        "http://elsewhere.test:{port}\\@site.test:{port}/",
        "http://user@site.test:{port}/",
        "http://user:password@site.test:{port}/",
        "http://:@site.test:{port}/",
        "http://site.test:{port}:80/",
        "http://site.test:99999/",
        "http://sit\uff45.test:{port}@elsewhere.test/",
        "http://site\u3002test\u3002evil.test:{port}/",
        "http://\uff11\uff12\uff17.0.0.1:{port}/",
        "http://site.test%2eevil.test:{port}/",
        "http://site.test\t.evil.test:{port}/",
        "http://site.test\r\nHost: elsewhere.test\r\n:{port}/",
        "file:///etc/passwd",
        "ftp://site.test:{port}/",
        "gopher://site.test:{port}/",
        "data:text/plain,hello",
        "//site.test:{port}/",
        "site.test:{port}/",
        "http://",
        "http:///a",
        "",
        "\ud800",
        "http://site.test:{port}/" + "a" * 3000,
        None,
        3,
        ["http://site.test/"],
    ],
)
async def test_what_is_not_named_is_never_connected_to(site: Site, url: object) -> None:
    site.pages["/"] = response(b"reached")
    where = url.replace("{port}", str(site.port)) if isinstance(url, str) else url
    result = await fetch(tool(site), where)
    assert result.failed
    assert "reached" not in result.content
    assert site.asked == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%1"],
        ["127.0.0.1", "10.0.0.1"],
        ["0.0.0.0"],
        [],
    ],
)
async def test_a_named_host_at_an_address_that_is_not_public_is_not_connected_to(
    site: Site, addresses: Sequence[str]
) -> None:
    result = await fetch(tool(site, addresses={"site.test": addresses}), f"http://site.test:{site.port}/")
    assert result == ToolResult(content=http_fetch.NOT_PUBLIC, failed=True)
    assert site.asked == []


async def test_this_machine_is_not_reached_by_its_real_name_either(site: Site) -> None:
    fetching = HttpFetch(
        Egress.of([f"localhost:{site.port}", f"127.0.0.1:{site.port}", f"2130706433:{site.port}"])
    )
    for host in ("localhost", "127.0.0.1", "2130706433"):
        result = await fetch(fetching, f"http://{host}:{site.port}/")
        assert result.content in {http_fetch.NOT_PUBLIC, http_fetch.UNKNOWN}
    assert site.asked == []


async def test_a_name_is_looked_up_once_and_the_connection_goes_where_it_led(site: Site) -> None:
    """DNS rebinding: the second answer would lead elsewhere."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["10.0.0.1"]])
    asked = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return next(answers)

    site.pages["/"] = response(b"reached")
    fetching = HttpFetch(Egress.of([f"site.test:{site.port}"], LOCAL), resolve=resolve)
    assert (await fetch(fetching, f"http://site.test:{site.port}/")).content.endswith("reached")
    assert asked == [("site.test", site.port)]


async def test_redirects_are_followed_and_each_is_checked(site: Site) -> None:
    site.pages |= {
        "/": response(status="302 Found", Location="/a"),
        "/a": response(status="307 Temporary Redirect", Location=f"//below.site.test:{site.port}/b#c"),
        "/b": response(status="308 Permanent Redirect", Location=f"http://below.site.test:{site.port}/c"),
        "/c": response(b"there"),
    }
    result = await fetch(tool(site), f"http://site.test:{site.port}/")
    assert result.content == f"HTTP 200, http://below.site.test:{site.port}/c:\n\nthere"


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/secret",
        "http://elsewhere.test:{port}/secret",
        "http://inner.site.test:{port}/secret",
        "http://user:password@site.test:{port}/secret",
        "//localhost:{port}/secret",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://[::1]:{port}/secret",
        "http://site.test:{port}" + "a" * 3000,
    ],
)
async def test_no_redirect_leads_where_the_first_address_may_not(site: Site, location: str) -> None:
    site.pages |= {"/secret": response(b"reached")}
    site.pages["/"] = response(status="302 Found", Location=location.replace("{port}", str(site.port)))
    fetching = tool(site, addresses={"inner.site.test": ["10.0.0.1"], "elsewhere.test": ["127.0.0.1"]})
    result = await fetch(fetching, f"http://site.test:{site.port}/")
    assert result.failed
    assert "reached" not in result.content
    assert len(site.asked) == 1


async def test_redirects_end(site: Site) -> None:
    site.pages["/"] = response(status="302 Found", Location="/")
    result = await fetch(tool(site), f"http://site.test:{site.port}/")
    assert result == ToolResult(content=http_fetch.TOO_MANY, failed=True)
    assert len(site.asked) == REDIRECTS_MAX + 1


@pytest.mark.parametrize(
    "kind", ["application/json", "application/problem+json", "text/csv", "application/xml"]
)
async def test_texts_are_read_as_they_are(site: Site, kind: str) -> None:
    site.pages["/"] = response(b'{"a": "<b>"}', kind=kind)
    assert (await fetch(tool(site), f"http://site.test:{site.port}/")).content.endswith('\n\n{"a": "<b>"}')


@pytest.mark.parametrize(
    "kind", ["image/png", "application/pdf", "application/octet-stream", "a\x01b", "x" * 500]
)
async def test_what_is_no_text_is_not_read(site: Site, kind: str) -> None:
    site.pages["/"], site.endless["/"] = FOREVER.replace(b"text/plain", kind.encode()), b"x" * 1000
    result = await fetch(tool(site), f"http://site.test:{site.port}/")
    assert result.failed
    assert len(result.content) < 200
    await until(lambda: site.connected == 0)


@pytest.mark.parametrize("charset", ["punycode", "unicode_escape", "zlib", "utf-7", "nonsense", ""])
async def test_strange_charsets_are_read_as_utf8(site: Site, charset: str) -> None:
    site.pages["/"] = response("é\\u0041".encode(), kind=f"text/plain; charset={charset}")
    assert (await fetch(tool(site), f"http://site.test:{site.port}/")).content.endswith("\n\né\\u0041")


async def test_a_page_that_is_missing_is_told_with_what_it_says(site: Site) -> None:
    site.pages["/"] = response(b"no such page", status="404 Not Found")
    result = await fetch(tool(site), f"http://site.test:{site.port}/")
    assert (result.failed, result.content.endswith("/:\n\nno such page")) == (True, True)
    assert result.content.startswith("HTTP 404, ")


async def test_of_a_giant_page_the_beginning_is_read(site: Site) -> None:
    site.pages["/"], site.endless["/"] = FOREVER, b"giant" * 10_000
    result = await fetch(tool(site), f"http://site.test:{site.port}/")
    assert not result.failed
    assert result.content.endswith("left out.]")
    assert len(result.content) < FETCH_CHARS_MAX + 200
    await until(lambda: site.connected == 0)


async def test_a_bomb_is_unpacked_no_further_than_that(site: Site) -> None:
    bomb = gzip.compress(b"\0" * (100 * BODY_BYTES_MAX))
    site.pages["/"] = response(bomb, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        result = await fetch(tool(site), f"http://site.test:{site.port}/")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.content.endswith("left out.]")
    assert len(result.content) < FETCH_CHARS_MAX + 200
    assert peak_bytes < 16 * BODY_BYTES_MAX


async def test_packed_pages_are_unpacked(site: Site) -> None:
    site.pages |= {
        "/": response(gzip.compress(b"packed"), Content_Encoding="gzip"),
        "/broken": response(b"no gzip", Content_Encoding="gzip"),
        "/br": response(b"?", Content_Encoding="br"),
        "/twice": response(gzip.compress(gzip.compress(b"packed")), Content_Encoding="gzip, gzip"),
    }
    fetching = tool(site)
    url = f"http://site.test:{site.port}"
    assert (await fetch(fetching, f"{url}/")).content.endswith("\n\npacked")
    for path in ("/broken", "/br", "/twice"):
        assert (await fetch(fetching, url + path)).failed


@pytest.mark.parametrize("page", [b"", FOREVER, b"HTTP/1.1 200 OK\r\n"])
async def test_who_is_slow_is_left(site: Site, page: bytes) -> None:
    site.pages["/"] = page
    site.endless["/"] = b"a: b\r\n" if b"\r\n\r\n" not in page else b"x"
    if not page:
        site.endless["/"] = b"\r"
    result = await fetch(tool(site), f"http://site.test:{site.port}/", for_s=0.5)
    assert result.failed
    assert result.content in {http_fetch.TOO_LONG, http_fetch.FAILED}
    await until(lambda: site.connected == 0)


async def test_nobody_there_is_told(site: Site) -> None:
    fetching = tool(site, addresses={"site.test": ["127.0.0.2", "127.0.0.1"]})
    site.pages["/"] = response(b"at the second address")
    url = f"http://site.test:{site.port}/"
    assert (await fetch(fetching, url)).content.endswith("second address")
    assert (
        await fetch(fetching, url.replace("site.test", "unknown.site.test"))
    ).content == http_fetch.UNKNOWN
    nowhere = tool(site, addresses={"site.test": ["127.0.0.2"]})
    assert (await fetch(nowhere, url)).content == http_fetch.FAILED


async def test_what_is_cancelled_leaves_no_connection(site: Site) -> None:
    site.pages["/"], site.endless["/"] = FOREVER, b"x"
    fetching = asyncio.create_task(fetch(tool(site), f"http://site.test:{site.port}/"))
    await until(lambda: site.connected == 1)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    await until(lambda: site.connected == 0)


async def test_the_certificate_is_checked_against_the_name(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path)
    make(files, ["site.test"])
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(files.certificate, files.key)
    trusting = ssl.create_default_context(cafile=str(files.ca))
    async with Site({"/": response(b"safe")}).served(serving) as site:
        url = f"https://site.test:{site.port}/"
        assert (await fetch(tool(site, tls=trusting), url)).content.endswith("\n\nsafe")
        other = url.replace("site.test", "below.site.test")
        assert (await fetch(tool(site, tls=trusting), other)).content == http_fetch.FAILED
        assert (await fetch(tool(site), url)).content == http_fetch.FAILED, "an authority that nobody knows"
        assert len(site.asked) == 1
        site.pages["/"] = response(status="302 Found", Location=url.replace("https", "http"))
        assert (await fetch(tool(site, tls=trusting), url)).content == http_fetch.LESS_SAFE
