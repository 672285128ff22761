"""How requests are put to an Ollama server, and whole answers read."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import msgspec

from services.common.tracing.current import ended_by, recorded
from services.common.tracing.spans import Kind, Shape
from services.inference.adapters.answers import NOT_OF_THE_SHAPE
from services.inference.adapters.connection import Patience, Reader
from services.inference.adapters.pool import Pool
from services.inference.adapters.readers import StreamReader, WholeReader
from services.inference.core.endpoints import Endpoint
from services.inference.ports import Fault, Trouble

SHAPES_MAX = 256
LISTING_BYTES_MAX = 16 * 1024 * 1024

Answer = TypeVar("Answer")


class Wire:
    """The connections to one server, and what every request to it begins with."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        connect_timeout_s: float,
        idle_max: int,
        listing: Patience,
        api_key: str | None,
    ) -> None:
        self.endpoint = endpoint
        self.pool = Pool(endpoint, connect_timeout_s=connect_timeout_s, idle_max=idle_max)
        self.connect_timeout_s = connect_timeout_s
        self.listing = listing
        authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._headers = f"Host: {endpoint.authority}\r\n{authorization}"

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        return self.head(method, path, content) + body

    def head(self, method: str, path: str, more: str = "") -> bytes:
        """Return the head of a request, with `more` header lines."""
        return f"{method} {self.endpoint.prefix}{path} HTTP/1.1\r\n{self._headers}{more}\r\n".encode()

    @contextmanager
    def traced(self, method: str, path: str, reader: StreamReader | WholeReader) -> Iterator[None]:
        """A request within a call that is recorded. `path` is one of Ollama's own, and holds nothing of a caller's."""
        if (parent := recorded()) is None:
            yield
            return
        span = parent.child(_asked(method, path, self.endpoint.host, self.endpoint.port))
        try:
            yield
        except BaseException as error:
            ended_by(span, error)
            raise
        finally:
            if reader.status:
                span.set({"http.response.status_code": reader.status})
            span.end()

    async def send(self, request: bytes, reader: Reader, patience: Patience) -> None:
        """As Pool.exchange."""
        await self.pool.exchange(lambda: request, reader, patience)

    async def asked(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        body: bytes = b"",
        *,
        model: str | None = None,
        patience: Patience | None = None,
    ) -> Answer:
        """Return a whole answer. `model` is the one a caller asked about, if one did."""
        reader = WholeReader(bytes_max=LISTING_BYTES_MAX)
        await self.send(self.request(method, path, body), reader, patience or self.listing)
        return decoded(reader.body(model), kind)


@lru_cache(SHAPES_MAX)
def _asked(method: str, path: str, host: str, port: int) -> Shape:
    return Shape(
        f"{method} {path}",
        Kind.CLIENT,
        {"http.request.method": method, "url.path": path, "server.address": host, "server.port": port},
    )


def decoded(body: bytes, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_OF_THE_SHAPE as error:
        raise Trouble(Fault.BROKEN, "an answer of another shape") from error
