"""A thread's session of the sandbox: what outlives a call, a run, a replica of the agent, and what does not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import UUID

import grpc.aio
import pytest
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceStub

from services.agent.adapters.execution_heard import ANEW, FILES_LOST
from services.agent.adapters.run_python import KEPT_S, LOST, UNKNOWN
from services.agent.adapters.sandbox_session import ALONE, GONE
from services.agent.adapters.thread_sessions import Place
from services.agent.core.ids import Owner, ThreadId
from services.agent.ports import ToolResult
from services.sandbox.errors import SessionsNotSupported, TooManySessions
from tests.fakes.fake_sandbox import Execution, FakeSandbox
from tests.fakes.severable import Severable
from tests.service.agent_app import until
from tests.unit.agent_sandbox_rig import ANN, FIRST, SECOND, Replica, replica

OK = ToolResult(content="42", failed=False)


@pytest.fixture
async def sandbox() -> AsyncIterator[FakeSandbox]:
    async with FakeSandbox.serving() as fake:
        yield fake


@pytest.fixture
async def agent(sandbox: FakeSandbox) -> AsyncIterator[Replica]:
    async with replica(sandbox.target) as made:
        yield made


def sessions_of(sandbox: FakeSandbox) -> list[str]:
    return [spec.session_id for spec in sandbox.specs]


async def test_calls_of_a_thread_find_its_session_wherever_they_are_made(
    agent: Replica, sandbox: FakeSandbox
) -> None:
    assert [await agent.call(), await agent.call()] == [OK, OK]
    await agent.call(thread_id=SECOND)
    async with replica(sandbox.target, store=agent.store) as other:
        await other.call(key="other:0")
    assert sessions_of(sandbox) == ["s1", "s1", "s2", "s1"]


async def test_two_replicas_that_make_it_at_once_make_one(agent: Replica, sandbox: FakeSandbox) -> None:
    async with replica(sandbox.target, store=agent.store) as other:
        await asyncio.gather(agent.call(), other.call(key="other:0"))
    assert sessions_of(sandbox) == ["s1", "s1"]


async def test_a_call_that_is_made_again_runs_once(agent: Replica, sandbox: FakeSandbox) -> None:
    hold = asyncio.Event()
    sandbox.script = [Execution(stdout=[b"once"], hold=hold)]
    first = asyncio.create_task(agent.call(key="run:0"))
    await until(lambda: agent.written == ["once"])
    agent.is_handed_over = True
    first.cancel()
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], asyncio.CancelledError)
    assert sandbox.running == 1, "it is left to whoever goes on"
    async with replica(sandbox.target, store=agent.store) as other:
        again = asyncio.create_task(other.call(key="run:0"))
        await until(lambda: other.written == ["once"])
        hold.set()
        assert (await again).content == (await other.call(key="run:0")).content == "once", (
            "also when it ended"
        )
    assert len(sandbox.specs) == 1


async def test_a_call_that_was_about_to_begin_is_begun(agent: Replica, sandbox: FakeSandbox) -> None:
    await agent.call()
    await agent.store.begin(ANN, FIRST, "run:lost")
    assert await agent.call(key="run:lost") == OK
    assert sessions_of(sandbox) == ["s1", "s1"]


async def test_what_nobody_remembers_is_not_done_twice(agent: Replica, sandbox: FakeSandbox) -> None:
    """Unless nothing of it can be left."""
    await agent.call(key="run:old")
    sandbox.executions.clear()
    agent.store.begun_s["run:old"] = time.monotonic() - KEPT_S - 1
    assert await agent.call(key="run:old") == ToolResult(content=UNKNOWN, failed=True)
    assert len(sandbox.specs) == 1
    sandbox.forget()
    assert (await agent.call(key="run:old")).content == f"{GONE}\n42"


async def test_the_model_is_told_that_a_session_is_gone(agent: Replica, sandbox: FakeSandbox) -> None:
    await agent.call()
    sandbox.forget()
    assert await agent.call() == ToolResult(content=f"{GONE}\n42", failed=False)
    assert await agent.call() == OK, "once"
    lost = pb.ExecutionEvent.Exited(
        outcome=pb.OUTCOME_OOM, message="out of memory", session_restarted=True, session_files_lost=True
    )
    sandbox.script = [Execution(exited=lost), Execution(stdout=[b"1"], session_restarted=True)]
    assert (await agent.call()).content == f"The program was ended: out of memory. {FILES_LOST}"
    assert (await agent.call()).content == f"{ANEW}\n1"


async def test_without_sessions_a_program_runs_all_the_same(agent: Replica, sandbox: FakeSandbox) -> None:
    sandbox.sessions_max = 0
    told = f"{ALONE.format(SessionsNotSupported.message)}\n42"
    assert await agent.call(key="run:alone") == ToolResult(content=told, failed=False)
    sandbox.sessions_max = 1
    assert (await agent.call(key="run:alone")).content == "42", "made again, it is the same execution"
    assert await agent.call() == OK
    assert sessions_of(sandbox) == ["", "s1"]


async def test_the_session_that_nobody_uses_makes_room(agent: Replica, sandbox: FakeSandbox) -> None:
    sandbox.sessions_max = 2
    await agent.call(thread_id=FIRST)
    await agent.call(thread_id=SECOND)
    sandbox.sessions["s1"].expire_time.FromSeconds(1)
    agent.store.busy = {FIRST, SECOND}
    third = ThreadId(UUID(int=3))
    assert (await agent.call(thread_id=third)).content == f"{ALONE.format(TooManySessions.message)}\n42"
    agent.store.busy = set()
    assert await agent.call(thread_id=third) == OK
    assert set(sandbox.sessions) == {"s2", "s3"}
    agent.store.busy = {SECOND, third}
    agent.store.places[ANN, FIRST] = Place(sandbox.target, "s1")
    assert (await agent.call(thread_id=FIRST)).content.endswith("42"), (
        "its session is gone, and there is none"
    )


async def test_a_session_that_is_busy_is_waited_for(agent: Replica, sandbox: FakeSandbox) -> None:
    await agent.call()
    hold = asyncio.Event()
    sandbox.script = [Execution(hold=hold)]
    request = service.StartExecutionRequest(
        execution_id="own", spec=pb.ExecutionSpec(code="1", session_id="s1")
    )
    async with grpc.aio.insecure_channel(sandbox.target) as channel:
        await SandboxServiceStub(channel).StartExecution(request, timeout=30)
    waiting = asyncio.create_task(agent.call())
    assert not (await agent.call(for_s=0.3)).content.startswith("42"), "as long as it may"
    assert not waiting.done()
    hold.set()
    assert await waiting == OK


async def test_calls_of_one_step_follow_each_other(agent: Replica, sandbox: FakeSandbox) -> None:
    assert await asyncio.gather(*(agent.call(f"print({n})") for n in range(5))) == [OK] * 5
    assert {spec.code for spec in sandbox.specs} == {f"print({n})" for n in range(5)}
    assert set(sessions_of(sandbox)) == {"s1"}


async def test_a_connection_that_breaks_loses_no_output(sandbox: FakeSandbox) -> None:
    hold = asyncio.Event()
    sandbox.script = [Execution(stdout=[b"\xc3", b"\xa9", b"t\xc3"], hold=hold, value=b"7")]
    async with (
        Severable.to(int(sandbox.target.rpartition(":")[2])) as cable,
        replica(f"127.0.0.1:{cable.port}") as agent,
    ):
        calling = asyncio.create_task(agent.call())
        await until(lambda: "".join(agent.written) == "ét")
        await cable.cut()
        await cable.mend()
        hold.set()
        assert (await calling).content == "ét\ufffd\n7"
        assert "".join(agent.written) == "ét\ufffd"
    assert len(sandbox.specs) == 1


async def test_a_sandbox_that_is_started_anew_has_lost_what_ran(sandbox: FakeSandbox) -> None:
    sandbox.script = [Execution(stdout=[b"half"], hold=asyncio.Event())]
    async with (
        Severable.to(int(sandbox.target.rpartition(":")[2])) as cable,
        replica(f"127.0.0.1:{cable.port}") as agent,
    ):
        calling = asyncio.create_task(agent.call())
        await until(lambda: agent.written == ["half"])
        await cable.cut()
        sandbox.forget()
        await cable.mend()
        assert await calling == ToolResult(content=f"half\n{LOST}", failed=True)
        assert (await agent.call()).content == f"{GONE}\n42"


async def test_what_is_cancelled_is_interrupted_and_keeps_its_session(
    agent: Replica, sandbox: FakeSandbox
) -> None:
    await agent.call()
    for heeds in (True, False):
        sandbox.script = [Execution(stdout=[b"1"], hold=asyncio.Event(), heeds_interrupts=heeds)]
        agent.written.clear()
        key = f"run:cancelled {heeds}".replace(" ", "-")
        calling = asyncio.create_task(agent.call(key=key))
        await until(lambda: agent.written == ["1"])
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        found = sandbox.executions[key]
        assert (found.interrupt_count, found.ended) == (1, True)
        killed = found.exited is not None and found.exited.outcome == pb.OUTCOME_CANCELLED
        assert killed is not heeds


@pytest.fixture
async def twins(sandbox: FakeSandbox) -> AsyncIterator[tuple[FakeSandbox, FakeSandbox]]:
    async with FakeSandbox.serving() as other:
        yield sandbox, other


async def test_a_user_stays_with_one_replica_of_the_sandbox(twins: tuple[FakeSandbox, FakeSandbox]) -> None:
    one, other = twins
    async with replica(one.target, other.target) as agent, replica(other.target, one.target) as again:
        await agent.call(thread_id=FIRST)
        await again.call(thread_id=SECOND, key="other:0")
    assert {len(one.specs), len(other.specs)} == {0, 2}


async def test_a_replica_stands_in_for_one_that_is_away(twins: tuple[FakeSandbox, FakeSandbox]) -> None:
    async with AsyncExitStack() as opened:
        cables = {}
        for twin in twins:
            cable = await opened.enter_async_context(Severable.to(int(twin.target.rpartition(":")[2])))
            cables[f"127.0.0.1:{cable.port}"] = cable, twin
        agent = await opened.enter_async_context(replica(*cables))
        await agent.call()
        home, stand_in = (cables[each.target] for each in agent.sandboxes.of(ANN))
        assert (len(home[1].specs), len(stand_in[1].specs)) == (1, 0)
        await home[0].cut()
        assert await agent.call() == ToolResult(content=f"{GONE}\n42", failed=False)
        await home[0].mend()
        assert await agent.call() == OK, "it stays where its session is"
        assert (len(home[1].specs), len(stand_in[1].specs)) == (1, 2)


async def test_a_target_that_is_taken_away_has_lost_its_sessions(
    twins: tuple[FakeSandbox, FakeSandbox],
) -> None:
    one, other = twins
    async with replica(one.target) as agent, replica(other.target, store=agent.store) as later:
        await agent.call()
        assert (await later.call(key="other:0")).content == f"{GONE}\n42"


async def test_a_session_ends_with_its_thread(agent: Replica, sandbox: FakeSandbox) -> None:
    await agent.call()
    await agent.call(thread_id=SECOND)
    await agent.sessions.end(ANN, FIRST, token="t")
    assert set(sandbox.sessions) == {"s2"}
    await agent.sessions.end(ANN, FIRST, token="t")
    await agent.sessions.end(Owner("o", "bob"), SECOND, token="t")
    assert set(sandbox.sessions) == {"s2"}


async def test_ending_a_session_that_cannot_be_reached_is_no_failure(sandbox: FakeSandbox) -> None:
    async with (
        Severable.to(int(sandbox.target.rpartition(":")[2])) as cable,
        replica(f"127.0.0.1:{cable.port}") as agent,
    ):
        await agent.call()
        await cable.cut()
        await agent.sessions.end(ANN, FIRST, token="t")


async def test_what_is_away_may_be_back_soon(sandbox: FakeSandbox) -> None:
    """Whoever calls may try again: under the same key, nothing is done twice."""
    async with (
        Severable.to(int(sandbox.target.rpartition(":")[2])) as cable,
        replica(f"127.0.0.1:{cable.port}") as agent,
    ):
        await cable.cut()
        for result in (await agent.call(key="run:again"), await agent.file("read", path="a")):
            assert (result.failed, result.may_pass) == (True, True)
        await cable.mend()
        async with asyncio.timeout(30):
            while (result := await agent.call(key="run:again")).may_pass:
                pass
        assert result == OK
        assert sandbox.begun == ["run:again"]
        assert not (await agent.file("read", path="a")).may_pass, "there is no such file"
