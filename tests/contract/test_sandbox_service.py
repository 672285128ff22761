"""What callers may rely on holds for the real sandbox and for the fake that other tests use in its place."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from ollamesh.client import CallError, Client, StaticToken, executions

from tests.fakes.fake_sandbox import Execution, FakeSandbox
from tests.service.sandbox_app import Service, built_root, serving

WITHIN_S = 60.0
ECHO = "import sys\nwhile data := sys.stdin.readline():\n    print(data, end='', flush=True)"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(built_root()) as running:
        yield running


@pytest.fixture(params=["fake", "real"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with AsyncExitStack() as opened:
        if request.param == "fake":
            fake = await opened.enter_async_context(FakeSandbox.serving())
            fake.otherwise = Execution(echoes=True)
            target, token = fake.target, "t"
        else:
            service: Service = request.getfixturevalue("service")
            async with service.ready():
                pass
            target, token = service.target, service.authority.token(f"user-{os.urandom(8).hex()}")
        yield await opened.enter_async_context(Client(f"http://{target}", StaticToken(token)))


async def reason(call: Callable[[], object]) -> str:
    """Why a call is refused."""
    with pytest.raises(CallError) as refused:
        await asyncio.wait_for(call(), WITHIN_S)  # type: ignore[arg-type]
    return refused.value.reason


async def test_input_is_addressed_by_its_offset(client: Client) -> None:
    box = client.sandbox
    await box.start(ECHO, execution_id="one", stdin=b"a\n", stdin_open=True)
    assert await box.send_input("one", b"bc\n", offset=0) == 3
    assert await box.send_input("one", b"c\nd\n", offset=1) == 5
    assert await reason(lambda: box.send_input("one", b"x", offset=9)) == "INPUT_OFFSET_WRONG"
    assert await box.send_input("one", b"", offset=5, end=True) == 5
    told = await asyncio.wait_for(executions.completed(box.watch("one")), WITHIN_S)
    assert (told.stdout, told.exited.outcome) == (b"a\nbc\nd\n", "ok")
    assert await reason(lambda: box.send_input("one", b"x", offset=5)) == "INPUT_ENDED"
    assert await box.send_input("one", b"bc\n", offset=0) == 5, "what has arrived may be sent again"
    rest = await asyncio.wait_for(executions.completed(box.watch("one", stdout_offset=5)), WITHIN_S)
    assert rest.stdout == b"d\n"


async def test_an_execution_is_interrupted_killed_and_remembered(client: Client) -> None:
    box = client.sandbox
    started = await box.start(ECHO, execution_id="one", stdin_open=True)
    again = await box.start(ECHO, execution_id="one", stdin_open=True)
    assert (again.execution_id, again.create_time) == ("one", started.create_time)
    assert await reason(lambda: box.start("pass", execution_id="one")) == "REQUEST_ID_REUSED"
    assert (await box.get("one")).exited is None
    killed = await box.kill("one")
    assert killed.exited is not None
    assert (killed.state, killed.exited.outcome) == ("exited", "cancelled")
    assert (await box.kill("one")).exited == killed.exited
    await box.interrupt("one")
    assert (await box.get("one")).exited == killed.exited


async def test_what_is_not_there_is_not_found(client: Client) -> None:
    box = client.sandbox
    for execution in (
        lambda: box.get("absent"),
        lambda: box.kill("absent"),
        lambda: box.interrupt("absent"),
        lambda: box.send_input("absent", b"", offset=0),
        lambda: executions.completed(box.watch("absent")),
    ):
        assert await reason(execution) == "EXECUTION_NOT_FOUND"
    for session in (
        lambda: box.get_session("absent"),
        lambda: box.run("pass", session_id="absent"),
        lambda: box.put_file("absent", "x", b""),
        lambda: box.get_file("absent", "x"),
        lambda: box.delete_file("absent", "x"),
    ):
        assert await reason(session) == "SESSION_NOT_FOUND"
    await box.delete_session("absent")


async def test_a_session_is_made_once_and_gone_when_it_is_deleted(client: Client) -> None:
    box = client.sandbox
    made = await box.create_session(request_id="r", idle_timeout_s=60)
    assert (await box.create_session(request_id="r", idle_timeout_s=60)).session_id == made.session_id
    assert await reason(lambda: box.create_session(request_id="r")) == "REQUEST_ID_REUSED"
    other = await box.create_session()
    listed = [session.session_id async for session in box.list_sessions()]
    assert listed == [other.session_id, made.session_id]
    await box.delete_session(made.session_id)
    await box.delete_session(made.session_id)
    assert await reason(lambda: box.get_session(made.session_id)) == "SESSION_NOT_FOUND"
    assert [session.session_id async for session in box.list_sessions()] == [other.session_id]
    await box.delete_session(other.session_id)


async def test_files_are_kept_as_they_were_put(client: Client) -> None:
    async with client.sandbox.session() as session:
        data = os.urandom(300_000)
        stored = await session.put("data", data)
        assert (stored.path, stored.size_bytes, stored.is_folder) == ("data", len(data), False)
        for name in ("c", "a", "b"):
            await session.put(name, name.encode())
        assert await session.get("data") == data
        assert b"".join([piece async for piece in session.read("data", offset=299_998)]) == data[-2:]
        assert [piece async for piece in session.read("data", offset=300_000)] == []
        assert [file.path async for file in session.files()] == ["a", "b", "c", "data"]
        await session.put("a", b"other")
        assert await session.get("a") == b"other"
        await session.remove("a")
        await session.remove("a")
        assert await reason(lambda: session.get("a")) == "FILE_NOT_FOUND"
        too_much = client.sandbox.put_file(session.session_id, "x", [b"1234"], size_bytes=3)
        assert await reason(lambda: too_much) == "INVALID_REQUEST"
        assert await reason(lambda: session.get("x")) == "FILE_NOT_FOUND"
