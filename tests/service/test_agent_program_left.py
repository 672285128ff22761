"""A program that runs while its replica of the agent is lost runs once, and is told once."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_SUCCEEDED

from tests.fakes import run_grammar
from tests.fakes.fake_inference import Reply
from tests.fakes.fake_sandbox import Execution
from tests.service.agent_app import Mesh, mesh, until
from tests.service.agent_process import process
from tests.stack import Database

CALL = Reply(calls=[("run_python", '{"code": "1"}')])


@pytest.fixture
async def around(database: Database) -> AsyncIterator[Mesh]:
    async with mesh(database("agent")) as made:
        yield made


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_whoever_goes_on_finds_the_program_and_what_it_wrote(around: Mesh, how: signal.Signals) -> None:
    hold = asyncio.Event()
    around.inference.script = [CALL]
    around.sandbox.script = [Execution(stdout=[b"be", b"gun\n"], value=b"42", hold=hold)]
    async with around.replica() as alive:
        here = alive.user()
        async with process(around) as leaving:
            run = await leaving.user().start(await leaving.user().thread())
            await until(lambda: around.sandbox.running == 1)
            watching = asyncio.create_task(here.watch(run.run_id))
            leaving.running.send_signal(how)
            await asyncio.to_thread(leaving.running.wait, 30)
        assert around.sandbox.running == 1, "it is left to whoever goes on"
        hold.set()
        events = await watching
    run_grammar.check(events)
    assert events[-1].finished.status == RUN_STATUS_SUCCEEDED
    assert around.sandbox.begun == [f"{run.run_id}:call_1_0"]
    assert [event.tool_returned.content for event in events if event.HasField("tool_returned")] == [
        "begun\n42"
    ]
    assert "".join(event.tool_output.text for event in events) == "begun\n"
