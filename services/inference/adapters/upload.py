"""One request on a connection of its own: for a body that is too large to hold, and for an answer without a body.

The pooled connections (connection.py) send a request in one piece, which is right for prompts and wrong for blobs of
gigabytes: here each chunk waits until the one before it has gone.
"""

import asyncio
import ssl
from collections.abc import AsyncIterable

from services.inference.adapters.readers import ERROR_BYTES_MAX
from services.inference.adapters.wire import Wire
from services.inference.ports import Fault, Trouble

STALL_S = 60.0  # For the server to take a chunk.
ANSWER_S = 900.0  # It hashes what it was given first.


async def ask_once(
    wire: Wire, method: str, path: str, chunks: AsyncIterable[bytes] | None = None
) -> tuple[int, bytes]:
    """Send a request with `chunks` for its body; return the status and the body of an error. Raises Trouble."""
    reader, writer = await _connected(wire)
    try:
        more = "Connection: close\r\n"
        more += "" if chunks is None else "Transfer-Encoding: chunked\r\n"
        writer.write(wire.head(method, path, more))
        if chunks is not None:
            await _sent(writer, chunks)
        async with asyncio.timeout(ANSWER_S):
            return await _answer(reader, has_body=method != "HEAD")
    except TimeoutError:
        raise Trouble(Fault.STALLED, f"silent for {ANSWER_S:g} s") from None
    except (OSError, EOFError) as error:
        raise Trouble(Fault.UNREACHABLE, "the connection was lost") from error
    finally:
        writer.transport.abort()


async def _connected(wire: Wire) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    endpoint = wire.endpoint
    tls = ssl.create_default_context() if endpoint.secure else None
    try:
        async with asyncio.timeout(wire.connect_timeout_s):
            return await asyncio.open_connection(endpoint.host, endpoint.port, ssl=tls)
    except (OSError, UnicodeError) as error:
        raise Trouble(Fault.UNREACHABLE, f"cannot connect: {type(error).__name__}") from error


async def _sent(writer: asyncio.StreamWriter, chunks: AsyncIterable[bytes]) -> None:
    """A server that has the blob already, or does not want it, answers early and hangs up."""
    async for chunk in chunks:
        if not chunk:  # It would end the body.
            continue
        try:
            writer.writelines((f"{len(chunk):x}\r\n".encode(), chunk, b"\r\n"))
            async with asyncio.timeout(STALL_S):
                await writer.drain()
        except ConnectionError:
            return
    writer.write(b"0\r\n\r\n")


async def _answer(reader: asyncio.StreamReader, *, has_body: bool) -> tuple[int, bytes]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
    except (ValueError, IndexError, asyncio.LimitOverrunError) as error:
        raise Trouble(Fault.BROKEN, "the answer is not HTTP") from error
    return status, await reader.read(ERROR_BYTES_MAX) if has_body and status >= 300 else b""
