"""What can be done to an execution that is under way: it is fed, interrupted and ended."""

import asyncio

import pytest
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service

from services.sandbox.ports import Stream
from tests.service.sandbox_executions import ended, events, serving
from tests.service.sandbox_rpcs import refusal


async def test_input_is_sent_by_offset() -> None:
    async with serving() as world:
        await world.start("e-1", stdin=b"first", stdin_open=True)
        jail = await world.jails.next_begun()
        assert await world.send("e-1", 0, b"abc") == 3
        assert await world.send("e-1", 0, b"abcd") == 4
        gap = await refusal(world.call("SendInput", service.SendInputRequest(execution_id="e-1", offset=9)))
        assert (gap.code, gap.reason) == ("FAILED_PRECONDITION", "INPUT_OFFSET_WRONG")
        assert gap.facts == {"next_offset": "4"}
        assert await world.send("e-1", 4, b"", end=True) == 4
        while not jail.is_input_ended:
            await asyncio.sleep(0)
        assert jail.fed == b"abcd"
        late = service.SendInputRequest(execution_id="e-1", offset=4, data=b"e")
        assert (await refusal(world.call("SendInput", late))).reason == "INPUT_ENDED"
        jail.end(0)


async def test_input_that_is_not_read_makes_its_sender_wait_and_nobody_else() -> None:
    async with serving() as world:
        await world.start("e-1", stdin_open=True)
        jail = await world.jails.next_begun()
        jail.reads.clear()
        await world.send("e-1", 0, bytes(1 << 20))
        more = service.SendInputRequest(execution_id="e-1", offset=1 << 20, data=b"x")
        with pytest.raises(Exception, match="Deadline Exceeded"):
            await world.call("SendInput", more, timeout_s=0.2)
        jail.write(Stream.STDOUT, b"it goes on")
        assert (await world.get("e-1")).stdout_bytes == 10
        waits = asyncio.create_task(refusal(world.call("SendInput", more)))
        await asyncio.sleep(0)
        jail.end(0)
        assert (await waits).reason == "INPUT_ENDED"


async def test_input_may_come_before_there_is_a_jail() -> None:
    async with serving(running_max=1) as world:
        await world.start("e-1")
        first = await world.jails.next_begun()
        await world.start("e-2", stdin_open=True)
        await world.send("e-2", 0, b"early", end=True)
        first.end(0)
        second = await world.jails.next_begun()
        while not second.is_input_ended:
            await asyncio.sleep(0)
        assert second.fed == b"early"
        second.end(0)


async def test_an_interrupt_goes_to_the_program_and_ends_one_that_waits() -> None:
    async with serving(running_max=1) as world:
        await world.start("e-1")
        jail = await world.jails.next_begun()
        await world.start("e-2")
        for execution_id in ("e-1", "e-2"):
            request = service.InterruptExecutionRequest(execution_id=execution_id)
            await world.call("InterruptExecution", request)
        assert (jail.interrupt_count, jail.kill_count) == (1, 0)
        assert (await ended(world, "e-2")).outcome == pb.OUTCOME_CANCELLED
        jail.end(0)
        assert (await ended(world, "e-1")).outcome == pb.OUTCOME_OK
        await world.call("InterruptExecution", service.InterruptExecutionRequest(execution_id="e-1"))
        assert jail.interrupt_count == 1


async def test_a_kill_answers_with_the_end_whenever_it_comes() -> None:
    async with serving(running_max=1) as world:
        await world.start("e-1")
        await world.jails.next_begun()
        await world.start("e-2")
        waiting, running = await world.kill("e-2"), await world.kill("e-1")
        for killed in (waiting, running, await world.kill("e-1")):
            assert killed.state == pb.EXECUTION_STATE_EXITED
            assert killed.exited.outcome == pb.OUTCOME_CANCELLED
        await world.start("e-3")
        (await world.jails.next_begun()).end(0)
        await ended(world, "e-3")
        assert (await world.kill("e-3")).exited.outcome == pb.OUTCOME_OK


async def test_execute_can_be_found_by_its_id_and_dies_with_its_call() -> None:
    async with serving() as world:
        call = world.execute(stdin_open=True)
        execution_id = (await anext(aiter(call))).event.started.execution_id
        jail = await world.jails.next_begun()
        assert await world.send(execution_id, 0, b"x") == 1
        watching = asyncio.create_task(world.watched(execution_id))
        assert (await world.get(execution_id)).state == pb.EXECUTION_STATE_RUNNING
        call.cancel()
        assert (await watching)[-1].exited.outcome == pb.OUTCOME_CANCELLED
        assert jail.kill_count >= 1


async def test_a_drain_lets_run_and_then_ends_and_tells() -> None:
    async with serving() as world:
        await world.start("ends")
        quick = await world.jails.next_begun()
        await world.start("stays")
        await world.jails.next_begun()
        call = world.execute()
        await world.jails.next_begun()
        draining = asyncio.create_task(world.engine.drain(0.3))
        await asyncio.sleep(0)
        assert (await refusal(world.execute())).reason == "SANDBOX_UNAVAILABLE"
        quick.end(0)
        assert (await ended(world, "ends")).outcome == pb.OUTCOME_OK
        await draining
        assert (await ended(world, "stays")).outcome == pb.OUTCOME_CANCELLED
        assert (await events(call))[-1].exited.outcome == pb.OUTCOME_CANCELLED
