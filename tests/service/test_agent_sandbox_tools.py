"""The agent's tools in the real sandbox, with real jails."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from services.agent.adapters.run_python import TOO_LONG
from services.agent.adapters.sandbox_session import GONE
from services.agent.core.ids import ThreadId
from services.agent.ports import ToolResult
from tests.service.agent_app import until
from tests.service.sandbox_app import Service, built_root
from tests.service.sandbox_sessions import ready
from tests.unit.agent_sandbox_rig import ANN, FIRST, SECOND, Replica, replica


def ok(content: str) -> ToolResult:
    return ToolResult(content=content, failed=False)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with ready(built_root()) as (serving, _):
        yield serving


@pytest.fixture
async def agent(service: Service) -> AsyncIterator[Replica]:
    async with replica(service.target, token=service.authority.token("ann")) as made:
        yield made


async def test_variables_and_files_live_across_calls_and_tools(agent: Replica) -> None:
    assert await agent.call("x = 20; open('a.txt', 'w').write('héllo')") == ok("5")
    assert await agent.call("x += 1\nx * 2") == ok("42")
    assert await agent.file("read", path="a.txt") == ok("héllo")
    await agent.file("write", path="data/b.csv", content="1,2\n3,4\n")
    assert await agent.call("print(sum(int(n) for l in open('data/b.csv') for n in l.split(',')))") == ok(
        "10"
    )
    assert await agent.call("'x' in globals()", thread_id=SECOND) == ok("False")
    binary = (
        "import os; os.makedirs('out', exist_ok=True); _ = open('out/c.bin', 'wb').write(bytes(range(256)))"
    )
    await agent.call(binary)
    assert await agent.file("read", path="out/c.bin") == ToolResult(
        content="out/c.bin is no text in UTF-8; it has 256 bytes.", failed=True
    )
    for path in ("/etc/passwd", "../../etc/passwd", "nothing", "data"):
        assert (await agent.file("read", path=path)).failed
    assert (await agent.file("write", path="/etc/passwd", content="x")).failed
    assert (await agent.file("read", path="a.txt", offset_bytes=99)).content.startswith("(nothing there")


async def test_a_call_is_made_once_however_often_it_is_asked_for(agent: Replica, service: Service) -> None:
    await agent.call("n = 0")
    code = "import time\nn += 1\nprint('begun', flush=True)\ntime.sleep(0.5)\nprint(n)"
    agent.is_handed_over = True
    left = asyncio.create_task(agent.call(code, key="run:call_1_0"))
    await until(lambda: agent.written == ["begun\n"])
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    async with replica(service.target, store=agent.store, token=agent.token) as other:
        assert await other.call(code, key="run:call_1_0") == ok("begun\n1")
        assert await other.call(code, key="run:call_1_0") == ok("begun\n1")
        assert await other.call("n", key="run:call_2_0") == ok("1")


async def test_what_is_cancelled_or_takes_too_long_leaves_the_session_as_it_was(agent: Replica) -> None:
    await agent.call("x = 7")
    forever = "print('begun', flush=True)\nwhile True: pass"
    cancelled = asyncio.create_task(agent.call(forever))
    await until(lambda: agent.written == ["begun\n"])
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert await agent.call("x") == ok("7")
    result = await agent.call(forever, for_s=1)
    assert (result.failed, TOO_LONG in result.content) == (True, True)
    assert await agent.call("x") == ok("7")


async def test_a_program_that_ends_its_interpreter_is_told_of(agent: Replica) -> None:
    await agent.call("x = 7")
    result = await agent.call("import os; os._exit(3)")
    assert result.failed
    assert "variables" in result.content
    assert "NameError" in (await agent.call("x")).content


async def test_the_fifth_thread_of_a_user_takes_the_place_of_one_that_no_run_uses(agent: Replica) -> None:
    threads = [FIRST, SECOND, *(ThreadId(UUID(int=n)) for n in (3, 4, 5))]
    for thread_id in threads:
        assert await agent.call("x = 1; x", thread_id=thread_id) == ok("1")
    assert (await agent.call("'x' in globals()", thread_id=threads[0])).content == f"{GONE}\nFalse"


async def test_a_session_that_ended_is_replaced(agent: Replica) -> None:
    await agent.call("x = 7")
    place = agent.store.places[ANN, FIRST]
    await agent.sessions.end(ANN, FIRST, token=agent.token)
    assert (await agent.call("'x' in globals()")).content == f"{GONE}\nFalse"
    assert agent.store.places[ANN, FIRST] != place
