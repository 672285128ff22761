"""Owned servers as processes: what is started, what is ended, and how long that may take."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.local.process import Identity, identify, is_alive
from services.common.restarts import RestartPolicy
from services.inference.adapters import served
from services.inference.adapters.served import Owned
from services.inference.core.restarts import OwnedPolicy
from services.inference.core.serving import PASSED_ON, Serving, plan_servings

QUICK = OwnedPolicy(
    restarts=RestartPolicy(first_delay_s=0.01, longest_delay_s=0.01, restarts_max=3, window_s=600.0)
)
SLEEPING = 'echo $$ >> "$TMPDIR/pids"; exec sleep 1000'


class Bench:
    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder
        self.program = folder / "ollama"
        self.program.write_text(f"#!/bin/sh\n{script}\n")
        self.program.chmod(0o755)
        self.ended: list[str] = []

    @property
    def started(self) -> list[Identity]:
        """Return what runs of all that was started."""
        path = self.folder / "pids"
        found = [identify(int(line)) for line in path.read_text().split()] if path.exists() else []
        return [one for one in found if one is not None]

    @asynccontextmanager
    async def owned(self, count: int = 1) -> AsyncIterator[Owned]:
        inherited = {"PATH": os.environ["PATH"], "TMPDIR": str(self.folder)}
        servings = plan_servings([str(n) for n in range(count)], port=11434, slots=4, inherited=inherited)
        owned = Owned(servings, binary=str(self.program), policy=QUICK, changed=self.ended.append)
        running = asyncio.create_task(owned.run())
        try:
            yield owned
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert not self.started

    async def until_started(self, count: int = 1, *, but: tuple[Identity, ...] = ()) -> list[Identity]:
        async with asyncio.timeout(20):
            while len(found := [one for one in self.started if one not in but]) < count:
                await asyncio.sleep(0.005)
        return found


ONE = "127.0.0.1:11434"


def test_each_has_a_port_and_an_environment_without_secrets() -> None:
    inherited = {
        "PATH": "/bin",
        "OLLAMA_MODELS": "/m",
        "SECRET_KEY": "s",
        "OLLAMA_API_KEY": "k",
        "OLLAMA_HOST": "elsewhere",
    }
    first, second = plan_servings(["0", "GPU-1"], port=20000, slots=2, inherited=inherited)
    assert isinstance(first, Serving)
    assert (first.name, second.name) == ("127.0.0.1:20000", "127.0.0.1:20001")
    assert second.variables == {
        "PATH": "/bin",
        "OLLAMA_MODELS": "/m",
        "OLLAMA_HOST": "127.0.0.1:20001",
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_MAX_LOADED_MODELS": "64",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert not any(name.endswith(("_KEY", "_SECRET", "_PASSWORD", "_URL")) for name in PASSED_ON)


def test_how_many_models_ollama_keeps_is_the_operators_to_bound() -> None:
    (serving,) = plan_servings(["0"], port=1, slots=2, inherited={"OLLAMA_MAX_LOADED_MODELS": "2"})
    assert serving.variables["OLLAMA_MAX_LOADED_MODELS"] == "2"


async def test_all_run_until_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SLEEPING)
    async with bench.owned(2) as owned:
        assert len(await bench.until_started(2)) == 2
        assert not owned.restart("127.0.0.1:1", "it is not ours")
        assert owned.trouble("127.0.0.1:1") == owned.trouble(ONE) == ""


async def test_one_that_is_stopped_is_killed_and_started_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SLEEPING)
    async with bench.owned() as owned:
        (wedged,) = await bench.until_started()
        os.kill(wedged.pid, signal.SIGSTOP)
        assert owned.restart(ONE, "it fell silent")
        assert owned.restart(ONE, "it fell silent"), "once is enough"
        await bench.until_started(but=(wedged,))
        assert not is_alive(wedged)
        assert bench.ended == [ONE]


async def test_restarts_that_are_asked_for_have_an_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SLEEPING)
    seen: list[Identity] = []
    async with bench.owned() as owned:
        for _ in range(3):
            seen += await bench.until_started(but=tuple(seen))
            assert owned.trouble(ONE) == ""
            assert owned.restart(ONE, "it fell silent")
        (last,) = await bench.until_started(but=tuple(seen))
        assert not owned.restart(ONE, "it fell silent")
        assert is_alive(last)


async def test_one_that_dies_at_once_is_given_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "echo no room >&2; exit 7")
    async with bench.owned() as owned:
        async with asyncio.timeout(20):
            while "given up" not in owned.trouble(ONE):
                await asyncio.sleep(0.005)
        assert owned.trouble(ONE).startswith("its process ended with status 7, too often")
        assert "no room" not in owned.trouble(ONE), "what it says is for the log alone"
        assert bench.ended == [ONE] * 4
        assert not owned.restart(ONE, "it fell silent")


async def test_one_that_will_not_end_is_killed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "GRACE_S", 0.05)
    bench = Bench(tmp_path, "trap '' TERM; " + SLEEPING)
    async with bench.owned():
        await bench.until_started()


async def test_output_is_bounded_and_never_holds_it_up(tmp_path: Path) -> None:
    flood = "head -c 3000000 /dev/zero; echo; yes words | head -n 2000; " + SLEEPING
    bench = Bench(tmp_path, flood)
    async with bench.owned():
        await bench.until_started()
