"""WatchFleet over a real socket: whole at first, then what changes, until somebody ends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import grpc.aio
from ollamesh.inference.v1 import fleet_pb2 as pb

from services.inference.fleet_watch import FleetWatch
from tests.fakes.fake_ollama import Hang
from tests.service.inference_app import WITHIN_S, Call, asked, one_instance, serving
from tests.service.inference_backend import Backend


async def read(call: Call) -> pb.Fleet:
    async with asyncio.timeout(WITHIN_S):
        response = await call.read()
    assert isinstance(response, pb.WatchFleetResponse), "the stream goes on"
    return response.fleet


async def until(call: Call, state: int) -> pb.Fleet:
    while (fleet := await read(call)).instances[0].state != state:
        pass
    return fleet


async def test_the_whole_state_comes_at_once_and_then_each_change() -> None:
    async with one_instance() as (service, fake):
        call = service.call("WatchFleet", pb.WatchFleetRequest())
        first = await read(call)
        now = await service.fleet()
        assert [(one.name, one.state, one.slot_count) for one in first.instances] == [
            (one.name, one.state, one.slot_count) for one in now.instances
        ]
        assert first.observed_time.seconds
        assert first.instances[0].breaker == pb.BREAKER_STATE_CLOSED
        fake.script("a", Hang())
        service.chat()
        await asked(fake)
        while not (fleet := await read(call)).instances[0].busy_slot_count:
            pass
        assert fleet.instances[0].resident_models[0].quantization == "F16"


async def test_an_instance_that_is_lost_is_shown_so() -> None:
    async with Backend("tiny:latest").serving() as backend, serving(backend.url) as service:
        call = service.call("WatchFleet", pb.WatchFleetRequest())
        assert (await read(call)).instances[0].state == pb.INSTANCE_STATE_READY
        backend.listing_status = 500
        fleet = await until(call, pb.INSTANCE_STATE_STALE)
        assert (fleet.instances[0].state_reason, fleet.instances[0].slot_count) == (
            "it answers with errors",
            0,
        )
        backend.listing_status = 200
        await until(call, pb.INSTANCE_STATE_READY)


async def test_a_drain_ends_the_stream_well_and_soon() -> None:
    async with one_instance(grace_s=60) as (service, _):
        call = service.call("WatchFleet", pb.WatchFleetRequest())
        await read(call)
        service.stop.set()
        async with asyncio.timeout(WITHIN_S):
            while await call.read() is not grpc.aio.EOF:
                pass
            assert await call.code() is grpc.StatusCode.OK


# The hub by itself


class Fleet:
    """A fleet that is looked at, and how often."""

    def __init__(self) -> None:
        self.state = pb.Fleet(instances=[pb.Instance(name="one", gpus=[pb.Gpu(name="H200")])])
        self.look_count = 0

    async def look(self) -> pb.Fleet:
        self.look_count += 1
        seen = pb.Fleet()
        seen.CopyFrom(self.state)
        seen.observed_time.GetCurrentTime()
        return seen


@asynccontextmanager
async def running(watch: FleetWatch) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(watch.run(stop))
    yield stop
    stop.set()
    await asyncio.wait_for(task, WITHIN_S)


async def test_many_readers_share_one_look() -> None:
    fleet = Fleet()
    watch = FleetWatch(fleet.look, every_s=600)
    async with running(watch):
        with closing(watch.reader()) as one, closing(watch.reader()) as two, closing(watch.reader()) as three:
            states = [await each.read() for each in (one, two, three)]
        assert states[0] is states[1] is states[2]
        assert fleet.look_count <= 2, "the first reader's, and perhaps the clock's"


async def test_nobody_watching_costs_no_look() -> None:
    fleet = Fleet()
    watch = FleetWatch(fleet.look, every_s=0.001)
    async with running(watch):
        with closing(watch.reader()) as reader:
            await reader.read()
        count = fleet.look_count
        await asyncio.sleep(0.01)
        assert fleet.look_count == count


async def test_what_moves_by_itself_is_no_change() -> None:
    fleet = Fleet()
    watch = FleetWatch(fleet.look, every_s=0.001, refresh_s=600)
    async with running(watch):
        with closing(watch.reader()) as reader:
            await reader.read()
            fleet.state.instances[0].seen_time.GetCurrentTime()
            fleet.state.instances[0].gpus[0].utilization = 0.5
            looked = fleet.look_count
            while fleet.look_count < looked + 2:
                await asyncio.sleep(0.001)
            assert watch.version == 1
            fleet.state.instances[0].busy_slot_count = 1
            state = await asyncio.wait_for(reader.read(), WITHIN_S)
    assert state is not None
    assert state.instances[0].gpus[0].utilization == 0.5, "a change shows all that is new"


async def test_figures_are_refreshed_now_and_then() -> None:
    fleet = Fleet()
    watch = FleetWatch(fleet.look, every_s=0.001, refresh_s=0.01)
    async with running(watch):
        with closing(watch.reader()) as reader:
            for _ in range(3):
                assert await asyncio.wait_for(reader.read(), WITHIN_S) is not None


async def test_a_slow_reader_gets_the_newest_state_and_no_backlog() -> None:
    fleet = Fleet()
    watch = FleetWatch(fleet.look, every_s=0.001, refresh_s=600)
    async with running(watch):
        with closing(watch.reader()) as slow:
            await slow.read()
            for busy in range(1, 6):
                before = watch.version
                fleet.state.instances[0].busy_slot_count = busy
                while watch.version == before:
                    await asyncio.sleep(0.001)
            state = await slow.read()
            assert state is not None
            assert state.instances[0].busy_slot_count == 5
            waiting = asyncio.create_task(slow.read())
            await asyncio.sleep(0.01)
            assert not waiting.done(), "there is nothing newer"
            waiting.cancel()


async def test_the_end_reaches_those_who_wait_and_those_who_come() -> None:
    watch = FleetWatch(Fleet().look, every_s=0.001)
    async with running(watch) as stop:
        with closing(watch.reader()) as reader:
            await reader.read()
            stop.set()
            while await asyncio.wait_for(reader.read(), WITHIN_S) is not None:
                pass
    with closing(watch.reader()) as late:
        assert await late.read() is None
