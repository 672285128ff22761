"""The standard input of a running execution, sent piece by piece."""

from collections.abc import AsyncIterable, Awaitable, Callable

import grpc
from ollamesh.client.errors import CallError
from ollamesh.sandbox.v1.sandbox_service_pb2 import SendInputRequest, SendInputResponse

PIECE_BYTES_MAX = 1 << 18
# A piece waits until the program has read enough of those before; no program runs for longer than so many deadlines.
TRIES_MAX = 120
# Nobody reads any more. That is no failure: a program need not read all that it is given.
ENDED = {"INPUT_ENDED", "EXECUTION_NOT_FOUND"}

Send = Callable[[SendInputRequest], Awaitable[SendInputResponse]]


async def feed(send: Send, execution_id: str, chunks: AsyncIterable[bytes], *, offset: int = 0) -> None:
    """Send `chunks` as they come, and then the end. `offset` is how much was sent before.

    Returns early if the program has ended, which is noticed with the next chunk.
    """
    try:
        async for chunk in chunks:
            for start in range(0, len(chunk), PIECE_BYTES_MAX):
                data = chunk[start : start + PIECE_BYTES_MAX]
                await _send(send, SendInputRequest(execution_id=execution_id, offset=offset, data=data))
                offset += len(data)
        await _send(send, SendInputRequest(execution_id=execution_id, offset=offset, end=True))
    except CallError as error:
        if error.reason not in ENDED:
            raise


async def _send(send: Send, request: SendInputRequest) -> None:
    """Until it is taken: what is sent again has the same offset, and is written once."""
    for number in range(1, TRIES_MAX + 1):
        try:
            await send(request)
        except CallError as error:
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED or number == TRIES_MAX:
                raise
        else:
            return
