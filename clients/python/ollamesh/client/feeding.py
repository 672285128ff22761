"""The standard input of a running execution, sent piece by piece."""

from collections.abc import AsyncIterable, Awaitable, Callable

from ollamesh.client.errors import CallError
from ollamesh.sandbox.v1.sandbox_service_pb2 import SendInputRequest, SendInputResponse

PIECE_BYTES_MAX = 1 << 18
# Nobody reads any more. That is no failure: a program need not read all that it is given.
ENDED = {"INPUT_ENDED", "EXECUTION_NOT_FOUND"}

Send = Callable[[SendInputRequest], Awaitable[SendInputResponse]]


async def feed(send: Send, execution_id: str, chunks: AsyncIterable[bytes], *, offset: int = 0) -> None:
    """Send `chunks` as they come, and then the end. `offset` is how much input the execution has had.

    Returns early if the program has ended, which is noticed with the next chunk.
    """
    try:
        async for chunk in chunks:
            for start in range(0, len(chunk), PIECE_BYTES_MAX):
                data = chunk[start : start + PIECE_BYTES_MAX]
                await send(SendInputRequest(execution_id=execution_id, offset=offset, data=data))
                offset += len(data)
        await send(SendInputRequest(execution_id=execution_id, offset=offset, end=True))
    except CallError as error:
        if error.reason not in ENDED:
            raise
