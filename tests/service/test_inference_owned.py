"""The service and the Ollama servers that it runs itself: started, started again, given up, and never left behind.

`ollama` is a stand-in: it writes down its environment, starts a child as Ollama starts runners, and becomes the fake
Ollama where it was told to listen.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from ollamesh.inference.v1.fleet_pb2 import INSTANCE_STATE_READY, Fleet

from deploy.local.ports import free_ports, is_free
from deploy.local.process import Identity as Process
from deploy.local.process import identify, is_alive
from tests.fakes.identity import Identity
from tests.service.inference_app import WITHIN_S, Service, events_of, grammar, refused, until

REPOSITORY = Path(__file__).parents[2]
STAND_IN = """#!{python}
import json, os, pathlib, subprocess, sys
folder = pathlib.Path({folder!r})
if (folder / "refuse").exists():
    print("Error: no GPU", flush=True)
    sys.exit(3)
runner = subprocess.Popen(["/bin/sleep", "1000"])
note = dict(pid=os.getpid(), runner=runner.pid, argv=sys.argv[1:], env=dict(os.environ))
(folder / f"{{os.getpid()}}.new").write_text(json.dumps(note))
(folder / f"{{os.getpid()}}.new").rename(folder / f"{{os.getpid()}}.json")
os.chdir({repository!r})
listen = os.environ["OLLAMA_HOST"]
os.execv(sys.executable, [sys.executable, "-m", "tests.fakes.fake_ollama", "--listen", listen])
"""


@dataclass(frozen=True, slots=True)
class Note:
    """What one run of the stand-in wrote down."""

    process: Process
    runner: Process
    argv: list[str]
    env: dict[str, str]


class Bench:
    """The stand-in, and all that it has been started as."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_run(2)
        program = folder / "ollama"
        program.write_text(
            STAND_IN.format(python=sys.executable, folder=str(folder), repository=str(REPOSITORY))
        )
        program.chmod(0o755)
        self._notes: dict[Path, Note] = {}

    def notes(self) -> list[Note]:
        """Return all runs in their order, those that have ended too."""
        for path in self.folder.glob("*.json"):
            if path not in self._notes:
                note = json.loads(path.read_text())
                found, runner = identify(note["pid"]), identify(note["runner"])
                gone = Process(0, "")
                self._notes[path] = Note(found or gone, runner or gone, note["argv"], note["env"])
        return [self._notes[path] for path in sorted(self._notes, key=lambda path: path.stat().st_mtime_ns)]

    def running(self) -> dict[str, Note]:
        """Return what runs now, by GPU."""
        return {note.env["CUDA_VISIBLE_DEVICES"]: note for note in self.notes() if is_alive(note.process)}

    def refuse(self) -> None:
        (self.folder / "refuse").touch()


@asynccontextmanager
async def owning(bench: Bench, gpus: str, **settings: str) -> AsyncIterator[tuple[Any, Service]]:
    """Run the service as a process of its own, with a GPU or two."""
    identity, (port,) = Identity(), free_ports(1)
    async with identity.served() as auth_target:
        given = {
            "PATH": f"{bench.folder}:{os.environ['PATH']}",
            "HOME": str(bench.folder),
            "OLLAMA_GPUS": gpus,
            "OLLAMESH_RUNTIME_PORT": str(bench.port),
            "OLLAMESH_INSECURE_INSIDE": "true",
            "OLLAMESH_AUTH_TARGET": auth_target,
            "OLLAMESH_INFERENCE_PORT": str(port),
            "OLLAMESH_INFERENCE_METRICS_PORT": "0",
            "OLLAMESH_LAME_DUCK_S": "0",
            "OLLAMESH_GRACE_S": "1",
            "OLLAMESH_POLL_EVERY_S": "0.05",
            "OLLAMESH_POLL_TIMEOUT_S": "0.5",
            "OLLAMESH_RESTART_DELAY_S": "0.05",
            **settings,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.inference"),
            cwd=REPOSITORY,
            env=given,
            stderr=subprocess.DEVNULL,
        )
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await asyncio.wait_for(channel.channel_ready(), WITHIN_S)
                yield process, Service(channel=channel, identity=identity, stop=asyncio.Event())
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), WITHIN_S)
            for note in bench.notes():
                for left in (note.process, note.runner):
                    if left.pid and is_alive(left):
                        with suppress(ProcessLookupError):
                            os.kill(left.pid, signal.SIGKILL)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _free_run(count: int) -> int:
    """Return the first of so many free ports in a row."""
    while True:
        (first,) = free_ports(1)
        if first + count < 65_000 and all(is_free(first + place) for place in range(count)):
            return first


def _ready(count: int) -> Any:
    return lambda fleet: sum(one.state == INSTANCE_STATE_READY for one in fleet.instances) == count


async def test_each_gpu_has_its_server_with_its_environment(bench: Bench) -> None:
    settings = {
        "OLLAMESH_INSTANCE_SLOTS": "3",
        "OLLAMA_KEEP_ALIVE": "7m",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_MODELS": "/models",
        "OLLAMA_API_KEY": "a key",
        "OLLAMA_DEBUG": "1",
        "SECRET_KEY": "of somebody else",
    }
    async with owning(bench, "0,GPU-5f3e", **settings) as (process, service):
        fleet = await service.until_fleet(_ready(2))
        assert [one.name for one in fleet.instances] == [
            f"127.0.0.1:{bench.port + place}" for place in (0, 1)
        ]
        assert [one.slot_count for one in fleet.instances] == [3, 3]
        running = bench.running()
        assert set(running) == {"0", "GPU-5f3e"}
        for place, note in enumerate((running["0"], running["GPU-5f3e"])):
            assert note.argv == ["serve"]
            assert note.env["OLLAMA_HOST"] == f"127.0.0.1:{bench.port + place}"
            assert note.env["OLLAMA_NUM_PARALLEL"] == "3"
            assert note.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
            assert note.env["OLLAMA_KEEP_ALIVE"] == "7m"
            assert note.env["OLLAMA_KV_CACHE_TYPE"] == "q8_0"
            assert note.env["OLLAMA_MODELS"] == "/models"
            assert not any(name.startswith("OLLAMESH") for name in note.env)
            assert not note.env.keys() & {"OLLAMA_API_KEY", "OLLAMA_GPUS", "OLLAMA_DEBUG", "SECRET_KEY"}
        assert grammar(await events_of(service.chat("hello", model="smollm2:135m"))).endswith("F")
        process.terminate()
        assert await asyncio.wait_for(process.wait(), WITHIN_S) == 0
        assert not any(is_alive(each) for note in bench.notes() for each in (note.process, note.runner))


async def test_one_that_is_killed_comes_back_and_its_runner_does_not(bench: Bench) -> None:
    async with owning(bench, "1") as (_, service):
        await service.until_fleet(_ready(1))
        killed = bench.running()["0"]
        os.kill(killed.process.pid, signal.SIGKILL)
        await until(lambda: "0" in bench.running() and bench.running()["0"] != killed)
        await service.until_fleet(_ready(1))
        assert not is_alive(killed.runner), "it would hold the GPU's memory"


async def test_one_that_dies_too_often_is_given_up_with_a_reason_and_the_other_stays(bench: Bench) -> None:
    async with owning(bench, "2", OLLAMESH_RESTARTS_MAX="2") as (_, service):
        await service.until_fleet(_ready(2))
        bench.refuse()
        os.kill(bench.running()["1"].process.pid, signal.SIGKILL)

        def given_up(fleet: Fleet) -> bool:
            return "given up" in fleet.instances[1].state_reason

        fleet = await service.until_fleet(given_up)
        assert fleet.instances[1].state_reason == (
            "its process ended with status 3, too often; it is given up for 600 s"
        )
        assert (fleet.instances[1].slot_count, fleet.instances[0].state) == (0, INSTANCE_STATE_READY)


async def test_a_wedged_one_is_started_anew(bench: Bench) -> None:
    settings = {"OLLAMESH_FIRST_TOKEN_TIMEOUT_S": "0.5", "OLLAMESH_POLL_TIMEOUT_S": "60"}
    async with owning(bench, "1", **settings) as (_, service):
        await service.until_fleet(_ready(1))
        assert grammar(await events_of(service.chat("hello", model="smollm2:135m"))).endswith("F")
        # Until then, a probe asks for less, and waits for longer.
        await service.until_fleet(lambda fleet: bool(fleet.instances[0].resident_models))
        wedged = bench.running()["0"]
        os.kill(wedged.process.pid, signal.SIGSTOP)
        calls = [service.chat("hello", model="smollm2:135m") for _ in range(4)]
        for call in calls:  # The first do not tell whether it is wedged or only slow.
            assert (await refused(call)).reason == "INSTANCE_FAILED"
        await until(lambda: not is_alive(wedged.process) and not is_alive(wedged.runner))
        await service.until_fleet(_ready(1))
        assert bench.running()["0"] != wedged


async def test_one_that_hangs_with_nothing_to_do_is_started_anew(bench: Bench) -> None:
    async with owning(bench, "1") as (_, service):
        await service.until_fleet(_ready(1))
        hanging = bench.running()["0"]
        os.kill(hanging.process.pid, signal.SIGSTOP)
        await until(lambda: not is_alive(hanging.process) and not is_alive(hanging.runner))
        await service.until_fleet(_ready(1))


async def test_nothing_is_left_when_the_service_is_killed(bench: Bench) -> None:
    async with owning(bench, "2") as (process, service):
        await service.until_fleet(_ready(2))
        running = list(bench.running().values())
        process.kill()
        await process.wait()
        await until(lambda: not any(is_alive(note.process) for note in running))


async def test_without_a_program_it_does_not_start(tmp_path: Path) -> None:
    env = {
        "PATH": str(tmp_path),
        "OLLAMA_GPUS": "1",
        "OLLAMESH_AUTH_TARGET": "127.0.0.1:1",
        "OLLAMESH_INSECURE_INSIDE": "true",
    }
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.inference"), cwd=REPOSITORY, env=env, stderr=subprocess.PIPE
    )
    _, said = await asyncio.wait_for(done.communicate(), WITHIN_S)
    assert done.returncode == 2
    assert b"needs `ollama` on PATH, or OLLAMESH_OLLAMA_BINARY" in said
