"""The tool `http_fetch`: reads pages of the hosts that the operator named, and reaches nothing else.

The URL is the model's, so it is taken to be hostile. One parser reads it, the one that also makes the request. Its host
has to be named; the host is looked up here, every address is checked, and the connection goes to a checked address,
so that a name that changes its address gains nothing. The certificate is checked against the name. Redirects are
followed by this module alone, each checked like the first. Nothing is sent but the request: no cookies, no
credentials, no proxy of the environment's.
"""

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from services.agent.adapters.tool_specs import FETCH_CHARS_MAX, http_fetch
from services.agent.core.egress import PORTS, Egress
from services.agent.core.html_text import text_of
from services.agent.ports import CallContext, ToolResult

URL_CHARS_MAX = 2048
BODY_BYTES_MAX = 1 << 20  # As it is sent, and as it is unpacked.
REDIRECTS_MAX = 5
ADDRESSES_MAX = 3  # Of a host, that are tried.
FETCHES_MAX = 32  # At the same time, in this process; others wait within their own time.
CONNECT_S_MAX = 5.0
SENT = {
    "User-Agent": "ollamesh-agent",
    "Accept": "text/*, application/json, */*;q=0.1",
    "Accept-Encoding": "gzip",
}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TEXT = re.compile(r"text/.*|application/(.*\+)?(json|xml)|application/(javascript|yaml|x-ndjson)")
TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}")
HTML = frozenset({"text/html", "application/xhtml+xml"})
# Python knows stranger ones, some of which take time out of proportion.
CHARSET = re.compile(
    r"(?i)utf-?8|us-ascii|utf-?16(-?[lb]e)?|iso-8859-\d+|windows-125\d|koi8-[ru]|shift_jis|euc-(jp|kr)|gbk|gb2312|gb18030|big5"
)

NO_URL = (
    f"`url` has to be an address that begins with http:// or https://, of {URL_CHARS_MAX} characters at most."
)
NOT_NAMED = "This address may not be fetched. Hosts that may: {}."
NOT_PUBLIC = "This address may not be fetched: its host is not on the public internet."
UNKNOWN = "There is no such host."
CREDENTIALS = "Addresses with a user name or password are not fetched."
TOO_MANY = f"It was not fetched: there were more than {REDIRECTS_MAX} redirects."
LESS_SAFE = "It was not fetched: it leads from https to http."
NO_TEXT = "HTTP {}: what is there is {}, and only text can be read."
PACKED = "It was not read: it is packed in a way that was not asked for."
FAILED = "It could not be fetched: the host did not answer as it should."
TOO_LONG = "It was not fetched in time."

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class _Refused(Exception):
    """With what the model is told."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content_type: str  # In lower case, without parameters.
    charset: str
    location: str
    body: bytes
    is_cut: bool


async def resolved(host: str, port: int) -> Sequence[str]:
    """A host's addresses, as this machine knows them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class HttpFetch:
    """Implements ports.Tool."""

    def __init__(
        self, egress: Egress, *, tls: ssl.SSLContext | None = None, resolve: Resolve = resolved
    ) -> None:
        self.spec = http_fetch(egress.hosts)
        self._egress, self._resolve = egress, resolve
        self._tls = tls or httpx.create_ssl_context()
        self._places = asyncio.Semaphore(FETCHES_MAX)

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        url = arguments.get("url")
        until_s = min(context.deadline_s, asyncio.get_running_loop().time() + self.spec.timeout_s)
        try:
            async with asyncio.timeout_at(until_s), self._places:
                return await self._fetched(_parsed(url))
        except _Refused as refused:
            return _failed(str(refused))
        except TimeoutError:
            return _failed(TOO_LONG)
        except (httpx.HTTPError, OSError):
            return _failed(FAILED)

    async def _fetched(self, url: httpx.URL) -> ToolResult:
        for _ in range(REDIRECTS_MAX + 1):
            answer = await self._get(url)
            if answer.status not in REDIRECTS or not answer.location:
                return await _told(url, answer)
            target = _parsed(answer.location, base=url)
            if (url.scheme, target.scheme) == ("https", "http"):
                raise _Refused(LESS_SAFE)
            url = target
        raise _Refused(TOO_MANY)

    async def _get(self, url: httpx.URL) -> _Answer:
        host = url.raw_host.decode("ascii").lower()
        port = url.port or PORTS[url.scheme]
        if not self._egress.permits(url.scheme, host, port):
            raise _Refused(NOT_NAMED.format(", ".join(self._egress.hosts)))
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise _Refused(UNKNOWN) from None
        if not self._egress.reaches(addresses):
            raise _Refused(NOT_PUBLIC)
        failure: httpx.ConnectError | None = None
        for address in addresses[:ADDRESSES_MAX]:
            try:
                return await self._ask(url, host, address)
            except httpx.ConnectError as error:
                failure = error
        assert failure is not None, "there is an address"
        raise failure

    async def _ask(self, url: httpx.URL, host: str, address: str) -> _Answer:
        """Of a connection of its own, which is closed afterwards."""
        request = httpx.Request(
            "GET",
            url.copy_with(host=address, fragment=None),
            headers={"Host": url.netloc.decode("ascii"), **SENT, "Connection": "close"},
            # By httpcore, also what the certificate has to say.
            extensions={"sni_hostname": host, "timeout": {"connect": CONNECT_S_MAX}},
        )
        async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, http2=False) as transport:
            response = await transport.handle_async_request(request)
            try:
                return await _answer(response)
            finally:
                await response.aclose()


def _parsed(url: object, *, base: httpx.URL | None = None) -> httpx.URL:
    """Raises _Refused."""
    try:
        if not isinstance(url, str) or len(url) > URL_CHARS_MAX:
            raise _Refused(NO_URL)
        parsed = httpx.URL(url) if base is None else base.join(url)
    except (httpx.InvalidURL, ValueError):
        raise _Refused(NO_URL) from None
    if parsed.scheme not in PORTS or not parsed.raw_host:
        raise _Refused(NO_URL)
    if parsed.userinfo:
        raise _Refused(CREDENTIALS)
    return parsed


async def _answer(response: httpx.Response) -> _Answer:
    """Raises _Refused, for what is no text as well."""
    kind, _, _ = response.headers.get("content-type", "text/plain").partition(";")
    location = response.headers.get("location", "")
    is_read = response.status_code not in REDIRECTS or not location
    content_type = kind.strip().lower()
    if is_read and not TEXT.fullmatch(content_type):
        shown = content_type if TYPE.fullmatch(content_type) else "of no known kind"
        raise _Refused(NO_TEXT.format(response.status_code, shown))
    body, is_cut = await _body(response) if is_read else (b"", False)
    return _Answer(
        status=response.status_code,
        content_type=content_type,
        charset=response.charset_encoding or "",
        location=location,
        body=body,
        is_cut=is_cut,
    )


async def _body(response: httpx.Response) -> tuple[bytes, bool]:
    """What fits, and whether that is not all. Never unpacks more than that. Raises _Refused."""
    packed = response.headers.get("content-encoding", "identity").strip().lower()
    if packed not in {"identity", "gzip"}:
        raise _Refused(PACKED)
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16) if packed == "gzip" else None
    body, sent_bytes = bytearray(), 0
    try:
        async for chunk in response.aiter_raw():
            sent_bytes += len(chunk)
            body += unpacking.decompress(chunk, BODY_BYTES_MAX + 1 - len(body)) if unpacking else chunk
            if max(len(body), sent_bytes) > BODY_BYTES_MAX:
                return bytes(body[:BODY_BYTES_MAX]), True
            if unpacking and unpacking.eof:
                break
    except zlib.error:
        raise _Refused(FAILED) from None
    return bytes(body), False


async def _told(url: httpx.URL, answer: _Answer) -> ToolResult:
    """What the model reads."""
    # Of a mebibyte, this takes long enough to keep other runs waiting.
    text = await asyncio.to_thread(_text, answer)
    shown = text[:FETCH_CHARS_MAX]
    if answer.is_cut or len(shown) < len(text):
        shown += "\n[It is longer; the rest is left out.]"
    said = f"HTTP {answer.status}, {url.copy_with(fragment=None)}:\n\n{shown}"
    return ToolResult(content=said, failed=answer.status >= 400)


def _text(answer: _Answer) -> str:
    charset = answer.charset if CHARSET.fullmatch(answer.charset) else "utf-8"
    text = answer.body.decode(charset, errors="replace").removeprefix("\ufeff")
    return text_of(text) if answer.content_type in HTML else text


def _failed(why: str) -> ToolResult:
    return ToolResult(content=why, failed=True)
