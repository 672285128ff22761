"""The stub Ollama in Python, for machines on which nothing compiles: stub.c says what it does, this does the same.

`python -m tests.bench.tools.stub PORT [MODEL...]`. The event loop's timers have a resolution of a millisecond, so a
token comes up to a millisecond after it is due; it carries the time at which it was really sent.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import cast

import httptools
import msgspec
import uvloop

from tests.bench.tools.stub_words import (
    OLLAMA,
    OPENAI,
    SHOWN,
    Words,
    encode,
    listing,
    openai_listing,
    vectors,
)

MODELS = ("stub-n50-i20000", "stub-n1-i0")
# Measured with load.c beside it on two cores that had other work, at a load average of 8.
LIMIT = (
    "the stub in Python held 150 streams of 50 tokens/s (p99 between tokens 26 ms) on two busy cores, takes 11 to 34 "
    "us of processor a token, is true to a millisecond, and sends 0.2 to 1 million tokens/s flat out"
)
FLAT_OUT_TOKENS = 400  # In one write; then the other streams have their turn.


class Stub:
    """What all connections share."""

    def __init__(self, models: tuple[str, ...]) -> None:
        self.models = tuple(name if ":" in name else f"{name}:latest" for name in models)
        self.requests = self.tokens = self.active = 0

    def small(self, path: str, body: Mapping[str, object]) -> dict[str, object] | None:
        """Return the answer to anything but a completion; None if there is none."""
        answers: dict[str, Callable[[], dict[str, object]]] = {
            "/": lambda: {"status": "Ollama is running"},
            "/health": lambda: {"status": "Ollama is running"},
            "/stats": lambda: {"requests": self.requests, "tokens": self.tokens, "active": self.active},
            "/api/version": lambda: {"version": "0.0.0"},
            "/api/tags": lambda: listing(self.models, resident=False),
            "/api/ps": lambda: listing(self.models, resident=True),
            "/api/show": lambda: dict(SHOWN),
            "/api/embed": lambda: vectors(body),
            "/v1/models": lambda: openai_listing(self.models),
        }
        found = answers.get(path)
        return found() if found else None


class Connection(asyncio.Protocol):
    """One client. One that does not wait for its answer before it asks again is hung up on."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._url, self._body = b"", bytearray()
        self._words: Words | None = None
        self._due_s, self._sent_count = 0.0, 0
        self._next: asyncio.Handle | None = None
        self._is_full = False

    # ---- asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it.

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()
        if self._words is not None:
            self._stub.active -= 1
            self._words = None

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._words is not None and self._next is None:
            self._flat_out()

    # ---- httptools' calls

    def on_message_begin(self) -> None:
        self._url, self._body = b"", bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._words is not None:
            self._transport.close()
            return
        path = httptools.parse_url(self._url).path.decode()
        try:
            body = msgspec.json.decode(self._body or b"{}", type=dict[str, object])
            words = Words(path, body) if path in {*OLLAMA, *OPENAI} else None
        except (msgspec.MsgspecError, KeyError, TypeError):
            self._answer({"error": "the request makes no sense"}, status="400 Bad Request")
            return
        if words is not None:
            self._complete(words)
        elif (answer := self._stub.small(path, body)) is not None:
            self._answer(answer)
        else:
            self._answer({"error": "no such path"}, status="404 Not Found")

    # ---- Answers

    def _answer(self, content: Mapping[str, object], *, status: str = "200 OK") -> None:
        body = encode(content)
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        if not self._parser.should_keep_alive():
            self._transport.close()

    def _complete(self, words: Words) -> None:
        if not words.asks:
            loaded = words.loaded()
            self._answer(loaded or {"error": {"message": "nothing is asked"}},
                         status="200 OK" if loaded else "400 Bad Request")  # fmt: skip
            return
        self._words, self._sent_count = words, 0
        self._stub.requests += 1
        self._stub.active += 1
        if words.streamed:
            self._transport.write(words.head)
        self._due_s = self._loop.time() + (
            words.scenario.first_s if words.streamed else words.scenario.last_s
        )
        self._next = self._loop.call_at(self._due_s, self._due)

    def _due(self) -> None:
        """Send what is due now: a whole answer, the start of an unpaced stream, or the next token of a paced one."""
        words, self._next = self._words, None
        assert words is not None
        if not words.streamed:
            self._stub.tokens += words.scenario.token_count
            self._finished()
            self._answer(words.whole())
        elif words.scenario.interval_s == 0:
            self._flat_out()
        else:
            self._paced(words)

    def _paced(self, words: Words) -> None:
        if self._sent_count < words.scenario.token_count:
            self._transport.write(words.token())
            self._sent_count += 1
            self._stub.tokens += 1
        if self._sent_count >= words.scenario.token_count:
            self._end(words)
        else:
            self._due_s += words.scenario.interval_s
            self._next = self._loop.call_at(self._due_s, self._due)

    def _flat_out(self) -> None:
        words, self._next = self._words, None
        assert words is not None
        count = min(FLAT_OUT_TOKENS, words.scenario.token_count - self._sent_count)
        self._transport.write(b"".join([words.token() for _ in range(count)]))
        self._sent_count += count
        self._stub.tokens += count
        if self._sent_count >= words.scenario.token_count:
            self._end(words)
        elif not self._is_full:
            self._next = self._loop.call_soon(self._flat_out)

    def _end(self, words: Words) -> None:
        self._finished()
        self._transport.write(words.end())
        if not self._parser.should_keep_alive():
            self._transport.close()

    def _finished(self) -> None:
        self._words = None
        self._stub.active -= 1


async def main(port: int, models: tuple[str, ...]) -> None:
    stub, loop = Stub(models), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stub), "127.0.0.1", port, backlog=4096)
    print(LIMIT, file=sys.stderr)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(main(int(sys.argv[1]), tuple(sys.argv[2:]) or MODELS))
