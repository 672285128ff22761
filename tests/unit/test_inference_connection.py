"""A connection to an instance, where the moment matters: a test hands it bytes as the loop would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from services.inference.adapters.connection import Connection, Patience, Phase
from services.inference.adapters.readers import WholeReader
from services.inference.ports import Fault, Trouble

PATIENT = Patience(first_s=60.0, stall_s=60.0)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def connected() -> AsyncIterator[Connection]:
    """A connection to a server that never says anything."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    try:
        yield connection
    finally:
        await connection.close()
        server.close()


async def asking(connection: Connection, reader: WholeReader) -> asyncio.Task[None]:
    task = asyncio.create_task(connection.exchange(b"GET / HTTP/1.1\r\n\r\n", reader, PATIENT))
    await asyncio.sleep(0)
    return task


async def test_a_whole_answer_leaves_the_connection_reusable() -> None:
    async with connected() as connection:
        for _ in range(2):
            task = await asking(connection, reader := WholeReader(bytes_max=10))
            for byte in ANSWER:
                connection.data_received(bytes([byte]))
            await task
            assert (reader.body(None), connection.reusable, connection.closed) == (b"{}", True, False)


async def test_a_caller_cancelled_as_the_answer_completes_leaves_nothing_open() -> None:
    async with connected() as connection:
        task = await asking(connection, WholeReader(bytes_max=10))
        connection.data_received(ANSWER)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connection.closed


@pytest.mark.parametrize(
    ("data", "fault"),
    [(b"SSH-2.0-OpenSSH\r\n", Fault.BROKEN), (None, Fault.UNREACHABLE)],
    ids=["not HTTP", "lost"],
)
async def test_a_failure_closes_the_connection(data: bytes | None, fault: Fault) -> None:
    async with connected() as connection:
        task = await asking(connection, WholeReader(bytes_max=10))
        assert connection._transport is not None
        if data is None:
            connection._transport.abort()
        else:
            connection.data_received(data)
        with pytest.raises(Trouble) as failed:
            await task
        assert failed.value.fault is fault


async def test_an_answer_too_large_is_not_read_to_its_end() -> None:
    async with connected() as connection:
        task = await asking(connection, reader := WholeReader(bytes_max=10))
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 11)
        await task
        assert connection.closed
        assert reader.phase is Phase.FLOWING
        with pytest.raises(Trouble, match="without end"):
            reader.body(None)
