"""The typed client and the command line with real jails: what their parts promise each other holds."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from ollamesh.client import CallError, Client, StaticToken, executions

from tests.fakes.command_line import in_a_process
from tests.service.sandbox_app import Service, built_root, serving

WITHIN_S = 60.0
PROFILES = ("python", "python-data")
PLOT = """\
import numpy as np, matplotlib.pyplot as plt
x = np.linspace(0, 10)
plt.plot(x, np.sin(x))
print("plotted")
round(float(np.sin(x).max()), 3)
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    root = built_root()
    built_root("python-data")
    with serving(root, settings={"OLLAMESH_SANDBOX_PROFILES": ",".join(PROFILES)}) as running:
        yield running


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    token = StaticToken(service.authority.token())
    async with Client(f"http://{service.target}", token) as client:
        async with asyncio.timeout(WITHIN_S):
            while len((await client.sandbox.capabilities()).profiles) < len(PROFILES):
                await asyncio.sleep(0.05)
        yield client


async def cli(service: Service, folder: Path, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    return await in_a_process(
        *arguments,
        edge=f"http://{service.target}",
        token=service.authority.token(),
        folder=folder,
        stdin=stdin,
        within_s=WITHIN_S,
    )


# ---- The client ------------------------------------------------------------------------------------


async def test_a_conversation_with_a_program(client: Client) -> None:
    heard = asyncio.Event()

    async def said() -> AsyncIterator[bytes]:
        yield b"Ada\n"
        await heard.wait()
        yield b"Grace\n"

    code = "import sys\nfor name in sys.stdin:\n    print('hello', name.strip(), flush=True)"
    output = b""
    async for event in client.execute(code, stdin=said()):
        if isinstance(event, executions.Stdout):
            output += event.data
            heard.set()
    assert output == b"hello Ada\nhello Grace\n"


async def test_an_execution_is_started_fed_watched_from_any_byte_and_ended(client: Client) -> None:
    box = client.sandbox
    code = "import sys\nprint(sys.stdin.readline().strip(), flush=True)\nimport time\ntime.sleep(60)"
    limits = executions.Limits(wall_s=10)
    started = await box.start(code, execution_id="mine", stdin=b"a", stdin_open=True, limits=limits)
    again = await box.start(code, execution_id="mine", stdin=b"a", stdin_open=True, limits=limits)
    assert again.create_time == started.create_time
    with pytest.raises(CallError, match="REQUEST_ID_REUSED"):
        await box.start("other", execution_id="mine")
    assert await box.send_input("mine", b"bc\n", offset=0) == 3
    async with aclosing(box.watch("mine")) as events:
        async for event in events:
            if isinstance(event, executions.Stdout):
                break
    assert (await box.get("mine")).state == "running"
    await box.interrupt("mine")
    done = await executions.completed(box.watch("mine", stdout_offset=2))
    assert (done.stdout, done.exited.outcome) == (b"c\n", "error")
    assert b"KeyboardInterrupt" in done.stderr
    assert (await box.kill("mine")).exited == dataclasses.replace(done.exited, sequence=0)


async def test_results_and_limits_are_told(client: Client) -> None:
    done = await client.sandbox.run("import pandas\npandas.DataFrame({'a': [1]})", profile="python-data")
    (result,) = done.results
    assert b"<table" in result["text/html"]
    assert result["text/plain"].split() == [b"a", b"0", b"1"]
    late = await client.sandbox.run("while True: pass", limits=executions.Limits(wall_s=0.5))
    assert (late.exited.outcome, late.exited.limits_reached) == ("timeout", ("wall",))


async def test_a_session_keeps_variables_and_files_and_tells_what_it_loses(client: Client) -> None:
    data = os.urandom(1 << 20)
    async with client.sandbox.session(idle_timeout_s=60) as session:
        await session.put("in/data.bin", data)
        assert (await session.run("data = open('in/data.bin', 'rb').read()")).exited.outcome == "ok"
        done = await session.run("open('out', 'wb').write(data[::-1])\nlen(data)")
        assert [result["text/plain"] for result in done.results] == [b"1048576"]
        assert await session.get("out") == data[::-1]
        assert [(file.path, file.is_folder) async for file in session.files()] == [
            ("in", True),
            ("out", False),
        ]
        assert [file.path async for file in session.files("in")] == ["in/data.bin"]
        crashed = (await session.run("import os\nos._exit(3)")).exited
        assert (crashed.exit_code, crashed.session_restarted) == (3, True)
        assert b"NameError" in (await session.run("data")).stderr
        assert (await session.info()).restart_count == 1
    with pytest.raises(CallError, match="SESSION_NOT_FOUND"):
        await session.info()


async def test_capabilities_are_those_of_the_machine(client: Client) -> None:
    found = await client.sandbox.capabilities()
    profiles = {profile.name: profile for profile in found.profiles}
    assert set(profiles) == set(PROFILES)
    assert any(package.startswith("pandas ") for package in profiles["python-data"].packages)
    assert found.default_limits.wall_s == 10


# ---- The command line ------------------------------------------------------------------------------


@pytest.mark.usefixtures("client")
async def test_a_plot_is_saved(service: Service, tmp_path: Path) -> None:
    (tmp_path / "plot.py").write_text(PLOT)
    code, out, err = await cli(service, tmp_path, "exec", "plot.py", "--profile", "python-data")
    assert (code, out) == (0, "plotted\n0.998\n")
    assert err.startswith("saved plot-1.png\nexit code 0 · ")
    assert (tmp_path / "plot-1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("client")
async def test_exit_codes_are_the_programs(service: Service, tmp_path: Path) -> None:
    cases = {
        "raise SystemExit(7)": 7,
        "while True: pass": 124,
        "b'x' * (1 << 30)": 137,
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": 137,
        "pass": 0,
    }
    options = ("--exit-code", "--timeout", "1", "--memory", "128M", "--no-results")
    for program, expected in cases.items():
        code, _, err = await cli(service, tmp_path, "exec", "-", *options, stdin=program.encode())
        assert code == expected, err


@pytest.mark.usefixtures("client")
async def test_a_session_and_its_files_by_command(service: Service, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("month,sold\n1,20\n")
    _, session, _ = await cli(service, tmp_path, "sandbox", "sessions", "create")
    session = session.strip()
    await cli(service, tmp_path, "sandbox", "files", "put", session, "sales.csv")
    program = b"text = open('sales.csv').read().upper()\nprint(open('copy', 'w').write(text))"
    assert (await cli(service, tmp_path, "exec", "--session", session, "-", stdin=program))[:2] == (0, "16\n")
    shown = await cli(service, tmp_path, "exec", "--session", session, "-", stdin=b"text[:5]")
    assert shown[:2] == (0, "'MONTH'\n")
    await cli(service, tmp_path, "sandbox", "files", "get", session, "copy")
    assert (tmp_path / "copy").read_text() == "MONTH,SOLD\n1,20\n"
    assert (await cli(service, tmp_path, "sandbox", "sessions", "rm", session))[0] == 0
    code, _, err = await cli(service, tmp_path, "exec", "--session", session, "-", stdin=b"text")
    assert code == 1
    assert "SESSION_NOT_FOUND" in err
