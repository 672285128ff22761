"""An Ollama that costs nothing: exact pacing, and tokens that carry the time at which they were sent.

`python -m tests.bench.support.stub_ollama PORT`. The model's name is the scenario: `stub-n50-i20000:latest` sends 50
tokens 20,000 microseconds apart, the first at once. Each token is the sender's CLOCK_MONOTONIC in nanoseconds and a
space; the clock is shared by all processes of a machine, so a reader can tell how long a token was on its way.

One process, one loop, one write for each token: good for some hundred streams at once, which is its limit.
"""

import asyncio
import json
import re
import sys
import time
from contextlib import suppress

MODELS = ("stub-n50-i20000:latest", "stub-n1-i0:latest")
SCENARIO = re.compile(r"stub-n(\d+)-i(\d+)")
DETAILS = {
    "format": "gguf",
    "family": "stub",
    "families": ["stub"],
    "parameter_size": "0",
    "quantization_level": "F16",
}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection, request after request."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", head)
            body = json.loads(await reader.readexactly(int(length[1])) if length else b"{}")
            await _respond(writer, head.split()[1], body)
    writer.close()


async def _respond(writer: asyncio.StreamWriter, path: str, body: dict[str, object]) -> None:
    if path == "/api/chat":
        await _stream(writer, str(body["model"]))
        return
    listing = [
        {"name": name, "model": name, "digest": "0" * 64, "size": 1, "modified_at": "2026-01-01T00:00:00Z",
         "details": DETAILS, "capabilities": ["completion"]}
        for name in MODELS
    ]  # fmt: skip
    resident = [
        {**row, "size_vram": 1, "expires_at": "2100-01-01T00:00:00Z", "context_length": 4096}
        for row in listing
    ]
    replies: dict[str, object] = {
        "/api/version": {"version": "0.0.0"},
        "/api/tags": {"models": listing},
        "/api/ps": {"models": resident},
    }
    content = json.dumps(replies.get(path, {})).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, model: str) -> None:
    scenario = SCENARIO.match(model)
    count, interval_s = (int(scenario[1]), int(scenario[2]) / 1e6) if scenario else (1, 0.0)
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    started_s = time.monotonic()
    for index in range(count):
        await asyncio.sleep(max(0.0, started_s + index * interval_s - time.monotonic()))
        token = {"role": "assistant", "content": f"{time.monotonic_ns()} "}
        _chunk(
            writer, {"model": model, "created_at": "2026-01-01T00:00:00Z", "message": token, "done": False}
        )
    final = {
        "model": model, "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": ""},
        "done": True, "done_reason": "stop", "total_duration": 1, "load_duration": 0, "prompt_eval_count": 1,
        "prompt_eval_duration": 1, "eval_count": count, "eval_duration": 1,
    }  # fmt: skip
    _chunk(writer, final)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _chunk(writer: asyncio.StreamWriter, line: dict[str, object]) -> None:
    content = json.dumps(line).encode() + b"\n"
    writer.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")


async def main(port: int) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1])))
