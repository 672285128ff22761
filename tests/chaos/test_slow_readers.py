"""R7: many who open long answers and do not read. They cost what the promise allows, and their generations end.

OLLAMESH_CHAOS_READERS is how many; `make chaos` has the 200 of the requirement.
"""

from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.common.grpc.client import bearer
from tests.bench.support.service import Service, service
from tests.bench.support.stub import stub
from tests.bench.support.watched import Watched
from tests.chaos.knobs import READERS

MODEL = "stub-n400000-i0"  # Far more than a slow reader may let pile up.
MIB = 2**20
ADDED_BYTES_MAX = 64 * MIB * READERS // 200 + 8 * MIB  # The second for what a process is warm with.
TIMEOUT_S = 60.0
PER_CHANNEL = 20  # So that their windows, and not a connection's, are what is closed.


async def open_and_do_not_read(gateway: Service, opened: AsyncExitStack) -> list[Any]:
    """Return calls that have been accepted, and of which nothing more is taken."""
    calls: list[Any] = []
    request = pb.ChatRequest(
        model=MODEL,
        messages=[pb.Message(role=pb.ROLE_USER, content="go")],
        options=pb.Options(output_token_count_max=400_000),
    )
    for number in range(READERS):
        if number % PER_CHANNEL == 0:
            options = [("grpc.use_local_subchannel_pool", 1)]  # Else they would share one connection.
            channel = await opened.enter_async_context(grpc.aio.insecure_channel(gateway.address, options))
        call = InferenceServiceStub(channel).Chat(
            request, timeout=TIMEOUT_S, metadata=bearer(gateway.token(f"org-{number}"))
        )
        opened.callback(call.cancel)
        await call.read()
        calls.append(call)
    return calls


async def test_who_does_not_read_costs_little_and_is_ended() -> None:
    with stub(f"{MODEL}:latest") as upstream:
        settings = {"instance_slots": READERS, "queue_max": READERS, "output_tokens_max": 1_000_000}
        async with service([upstream.url], **settings) as gateway, AsyncExitStack() as opened:
            watched = Watched(gateway, [upstream.port])
            rest = await watched.sample()
            calls = await open_and_do_not_read(gateway, opened)
            await gateway.until_idle()  # Nothing is generated any more, though nobody has left.
            held = await watched.sample()
            added = held.rss_bytes - rest.rss_bytes
            print(f"{READERS} who do not read: {added / MIB:.1f} MiB")  # noqa: T201
            codes = [await ended(call) for call in calls]
    assert added <= ADDED_BYTES_MAX
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def ended(call: Any) -> grpc.StatusCode:
    """Read what there is, and return how it ended."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
