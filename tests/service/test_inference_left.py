"""Nothing of a call outlives it, in whichever state its caller leaves."""

import asyncio
import gc
from collections import Counter
from random import Random

import grpc.aio
from grpc._cython.cygrpc import _ServicerContext  # type: ignore[import-not-found]

from services.common.grpc.client import held
from services.inference.completion import Completion
from services.inference.streams.live import Live
from services.inference.streams.means import Stream
from services.inference.work import Answering
from tests.fakes.fake_ollama import FakeOllama, Hang
from tests.service.inference_app import Service, one_instance, until, until_event

# What there is one of for each call: gRPC's on the server's side and the client's, and ours.
KINDS = (_ServicerContext, grpc.aio.UnaryStreamCall, Completion, Stream, Live, Answering)
STREAMS, AT_ONCE = 200, 20


def alive() -> Counter[str]:
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, KINDS))


def task_count() -> int:
    """How many tasks there are, but for the fake's: it has one for each connection, which stay for a while."""
    names = [repr(task.get_coro()) for task in asyncio.all_tasks()]
    return sum("RequestHandler" not in name for name in names)


async def leave(service: Service, random: Random) -> None:
    with held(service.chat()) as call:
        match random.randrange(3):
            case 0:
                await asyncio.sleep(0)
            case 1:
                await until_event(call, "opened")
            case _:
                await until_event(call, "delta")


async def leave_all(service: Service, fake: FakeOllama, *, seed: int) -> None:
    random = Random(seed)
    for _ in range(STREAMS // AT_ONCE):
        for _ in range(AT_ONCE):
            fake.script("a", Hang())
        await asyncio.gather(*(leave(service, random) for _ in range(AT_ONCE)))
        await service.until_idle()


async def test_nothing_of_a_call_outlives_it() -> None:
    async with one_instance(instance_slots=AT_ONCE) as (service, fake):
        others = alive()  # Of tests before this one in the same process, and what the service itself watches.
        await leave_all(service, fake, seed=1)
        await until(lambda: alive() <= others)
        before = task_count()
        await leave_all(service, fake, seed=2)
        await until(lambda: alive() <= others)
        await until(lambda: task_count() <= before)
