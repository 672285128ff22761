"""TLS in front of a server that has none, as PostgreSQL and Redis have it in a cluster.

The embedded servers are built without. So this ends the TLS, and passes the bytes on: what is tested is our side.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from services.common.certificates import Files

SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # PostgreSQL's first message from who wants TLS.
CHUNK_BYTES = 65_536


@asynccontextmanager
async def tls_before(port: int, files: Files, *, postgres: bool = False) -> AsyncIterator[int]:
    """Yield a port of loopback. `postgres`: clients ask in plain text first whether there is TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if postgres:
                assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST, "in plain text"
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(context)
            there, to = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, to))
                tasks.create_task(_copy(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if postgres else context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while received := await reader.read(CHUNK_BYTES):
            writer.write(received)
            await writer.drain()
    writer.close()
