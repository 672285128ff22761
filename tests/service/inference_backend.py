"""An Ollama whose every byte a test decides, for what a well-behaved HTTP server cannot be made to do: break the
framing, answer with something else, fall silent, never end, hang up on an idle connection.

    async with Backend("tiny:latest").serving() as backend:
        exchange = await backend.asked()      # What the gateway sent.
        exchange.token("a")                   # The answer, as far as the test goes.
        exchange.done()

Questions about the server itself are answered at once from `models` and `residents`; loads, unloads and probes
too, with their effect on `residents`, but for those that are left to the test (`by_hand`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import Any

from tests.fakes.ports import bound, port_of
from tests.service.inference_app import WITHIN_S

JSON_HEAD = "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
STREAM_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


class Upkeep(Enum):
    """What the gateway asks for on nobody's behalf."""

    LOAD = auto()
    UNLOAD = auto()
    PROBE = auto()


class Exchange:
    """A request that waits for its answer."""

    def __init__(self, head: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.method, self.path, *_ = head.split(" ")
        self.head, self.body = head, body
        self.over = asyncio.Event()
        self.gone = asyncio.Event()  # The gateway closed the connection before it had an answer.
        self._writer = writer
        self._streaming = False

    @property
    def model(self) -> str:
        return str(self.body.get("model"))

    @property
    def upkeep(self) -> Upkeep | None:
        """What of that it is; None for what a caller asked for."""
        body = self.body
        if self.path == "/api/generate":
            if body.get("keep_alive") == 0:
                return Upkeep.UNLOAD
            if "prompt" not in body:
                return Upkeep.LOAD
            return None if "keep_alive" in body else Upkeep.PROBE
        if self.path == "/api/embed" and body["input"] == []:
            return Upkeep.LOAD
        return Upkeep.PROBE if self.path == "/api/embed" and "keep_alive" not in body else None

    def line(self, **values: object) -> None:
        """Send a line of a stream."""
        self.raw_line(json.dumps(values).encode())

    def raw_line(self, text: bytes) -> None:
        if not self._streaming:
            self._writer.write(STREAM_HEAD.encode())
            self._streaming = True
        self._writer.write(f"{len(text) + 1:x}\r\n".encode() + text + b"\n\r\n")

    def token(self, text: str) -> None:
        if self.path == "/api/generate":
            self.line(response=text, done=False)
        else:
            self.line(message={"role": "assistant", "content": text}, done=False)

    def done(self, reason: str = "stop", **values: object) -> None:
        """Complete a stream."""
        self.line(message={"content": ""}, done=True, done_reason=reason, **values)
        self.end()

    def end(self) -> None:
        """End a stream, complete or not."""
        self._writer.write(b"0\r\n\r\n")
        self.over.set()

    def reply(self, value: object, *, status: int = 200) -> None:
        """Answer with a whole document."""
        content = json.dumps(value).encode()
        self.raw(JSON_HEAD.format(status=status, length=len(content)).encode() + content)
        self.over.set()

    def fail(self, status: int, error: str = "it failed") -> None:
        self.reply({"error": error}, status=status)

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    def cut(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()
        self.over.set()


class Backend:
    """A server of `models`, all of which it has on disk."""

    def __init__(
        self, *models: str, residents: tuple[str, ...] = (), by_hand: Collection[Upkeep] = ()
    ) -> None:
        self.models: list[dict[str, object]] = [
            {"name": name, "digest": f"digest of {name}", "size": 10, "capabilities": None} for name in models
        ]
        self.residents = [_resident(name) for name in residents]
        self.by_hand = set(by_hand)
        self.upkeep: list[tuple[Upkeep, str]] = []  # What was asked for, of which model.
        self.listing_status = 200
        self.connection_count = 0
        self._reserved = bound()  # While it is stopped.
        self.port = port_of(self._reserved)
        self._exchanges: asyncio.Queue[Exchange] = asyncio.Queue()
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._server: asyncio.Server | None = None

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.name}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Backend"]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()
            self._reserved.close()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=bound(self.port))

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        serving = [task for task in self._connections.values() if task is not None]
        self.drop_connections()
        await asyncio.gather(*serving)

    def drop_connections(self) -> None:
        for writer in self._connections:
            writer.transport.abort()

    async def asked(self) -> Exchange:
        """Return the next request that is not about the server itself, nor carried out already."""
        async with asyncio.timeout(WITHIN_S):
            return await self._exchanges.get()

    def idle(self) -> bool:
        """Whether nothing was asked that was not taken by `asked`."""
        return self._exchanges.empty()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = asyncio.current_task()
        self.connection_count += 1
        coming = asyncio.create_task(_request(reader))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head, body = await coming
                exchange = Exchange(head, body, writer)
                coming = asyncio.create_task(_request(reader))
                if not self._answered(exchange) and not self._carried_out(exchange):
                    self._exchanges.put_nowait(exchange)
                    await _first(exchange.over, coming)
                    if not exchange.over.is_set():
                        exchange.gone.set()
        coming.cancel()
        del self._connections[writer]
        writer.close()

    def _answered(self, exchange: Exchange) -> bool:
        answers: dict[str, object] = {
            "/api/version": {"version": "0.99"},
            "/api/tags": {"models": self.models},
            "/api/ps": {"models": self.residents},
        }
        if exchange.path not in answers:
            return False
        exchange.reply(answers[exchange.path], status=self.listing_status)
        return True

    def _carried_out(self, exchange: Exchange) -> bool:
        kind, model = exchange.upkeep, exchange.model
        if kind is None:
            return False
        self.upkeep.append((kind, model))
        if kind in self.by_hand:
            return False
        self.keep(exchange)
        return True

    def keep(self, exchange: Exchange) -> None:
        """Carry out what is asked for on nobody's behalf."""
        model = exchange.model
        if exchange.upkeep is Upkeep.PROBE and exchange.path == "/api/generate":
            exchange.token("x")
            exchange.done("length")
            return
        if exchange.upkeep is not Upkeep.PROBE:
            self.residents = [resident for resident in self.residents if resident["name"] != model]
        if exchange.upkeep is Upkeep.LOAD:
            self.residents.append(_resident(model, **exchange.body["options"]))
        exchange.reply({"model": model, "done": True, "embeddings": [[1.0]]})


def _resident(name: str, *, num_ctx: int = 4096, **_: object) -> dict[str, object]:
    return {"name": name, "size": 9, "size_vram": 8, "context_length": num_ctx}


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(
        (int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0
    )
    return head, json.loads(await reader.readexactly(length)) if length else {}


async def _first(over: asyncio.Event, coming: asyncio.Task[Any]) -> None:
    waiting = asyncio.create_task(over.wait())
    await asyncio.wait({waiting, coming}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def describe(backend: Backend) -> None:
    """Answer whoever asks what a model is, until cancelled."""
    while True:
        (exchange := await backend.asked()).reply({})
        assert exchange.path == "/api/show"
