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
    ended = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    try:
        yield connection
    finally:
        await connection.close()
        server.close()
        await asyncio.wait_for(ended.wait(), 20)


async def asking(connection: Connection, reader: WholeReader) -> asyncio.Task[None]:
    task = asyncio.create_task(connection.exchange(lambda: b"GET / HTTP/1.1\r\n\r\n", reader, PATIENT))
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


async def test_a_second_answer_to_one_question_is_nobody_s() -> None:
    async with connected() as connection:
        task = await asking(connection, reader := WholeReader(bytes_max=10))
        connection.data_received(ANSWER + ANSWER.replace(b"{}", b"[]"))
        await task
        assert reader.body(None) == b"{}"
        assert connection.closed


async def test_an_answer_that_nobody_asked_for_closes_the_connection() -> None:
    async with connected() as connection:
        task = await asking(connection, WholeReader(bytes_max=10))
        connection.data_received(ANSWER)
        await task
        assert connection.reusable
        connection.data_received(ANSWER)
        async with asyncio.timeout(20):
            while not connection.closed:
                await asyncio.sleep(0)
        assert not connection.reusable


async def test_a_reader_is_fed_once_for_all_that_arrives_together() -> None:
    class Counting(WholeReader):
        fed_count = 0

        def feed(self, data: bytes) -> bool:
            self.fed_count += 1
            return super().feed(data)

    async with connected() as connection:
        task = await asking(connection, reader := Counting(bytes_max=10))
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.data_received(head + b"1\r\na\r\n1\r\nb\r\n")
        connection.data_received(b"1\r\nc\r\n0\r\n\r\n")
        await task
        assert (reader.body(None), reader.fed_count) == (b"abc", 2)


@pytest.mark.parametrize("cut", [0, 10, 40])
async def test_an_interim_answer_is_not_the_answer(cut: int) -> None:
    data = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ANSWER
    async with connected() as connection:
        task = await asking(connection, reader := WholeReader(bytes_max=10))
        for part in filter(None, (data[:cut], data[cut:])):
            assert not task.done()
            connection.data_received(part)
        await task
        assert (reader.body(None), connection.reusable) == (b"{}", True)


async def test_an_answer_before_all_was_sent_leaves_no_connection_for_the_next() -> None:
    async with connected() as connection:
        assert connection._transport is not None
        request = b"POST / HTTP/1.1\r\n\r\n" + b"x" * 8_000_000
        reader = WholeReader(bytes_max=10)
        task = asyncio.create_task(connection.exchange(lambda: request, reader, PATIENT))
        await asyncio.sleep(0)
        assert connection._transport.get_write_buffer_size() > 0
        connection.data_received(ANSWER.replace(b"200 OK", b"400 Bad Request"))
        await task
        assert connection.closed


class Lines(WholeReader):
    """Complete by its own content before its framing is."""

    def feed(self, data: bytes) -> bool:
        super().feed(data)
        self.phase = Phase.COMPLETE
        return True


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"


async def test_an_answer_that_is_complete_is_not_spoilt_by_its_framing() -> None:
    async with connected() as connection:
        task = await asking(connection, reader := Lines(bytes_max=10))
        connection.data_received(CHUNKED + b"nonsense\r\n")
        await task
        assert reader.body(None) == b"{}"
        assert connection.closed


async def test_what_trickles_in_after_the_end_is_not_waited_for() -> None:
    async with connected() as connection:
        task = await asking(connection, Lines(bytes_max=100))
        connection.data_received(CHUNKED)
        heard_at_s = connection._heard_at_s
        await asyncio.sleep(0.01)  # The clock moves on.
        connection.data_received(b"1\r\n \r\n")
        assert connection._heard_at_s == heard_at_s
        await task
        assert connection.closed
