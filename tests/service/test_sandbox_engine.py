"""The engine `ns` in this process: what it does on machines that refuse something."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from services.sandbox.adapters.ns import cgroups, selftest
from services.sandbox.adapters.ns import engine as engine_module
from services.sandbox.adapters.ns.cgroups import Cgroups, Home
from services.sandbox.core.lifecycle import Outcome, Verdict
from services.sandbox.errors import SandboxUnavailable
from tests.service.sandbox_app import TIMEOUT_S
from tests.service.sandbox_engine import USUAL, engine, run


async def test_an_engine_that_fails_its_self_test_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "WALLS", "print('mounts')")
    async with engine() as jails:
        assert jails.problem == "the engine failed its self-test: a program mounts"
        with pytest.raises(SandboxUnavailable):
            await jails.take(USUAL)


async def test_cgroups_that_let_nobody_in_are_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Folders can often be made where processes cannot be put."""
    barred = Cgroups((Home("pids", 1, tmp_path),))
    monkeypatch.setattr(cgroups, "find", lambda: barred)
    async with engine() as jails:
        assert jails.problem is None
        assert "memory_bytes" not in jails.strength.enforced_limits
        assert any("no cgroup" in weakness for weakness in jails.strength.weaknesses)
        assert await run(jails, "print(1)") == (Verdict(Outcome.OK), "1\n")


async def test_who_had_walls_does_not_go_on_with_lower_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes the next zygotes fail their test, such as somebody who kills them."""
    tried = []

    async def lost(*_: object, **__: object) -> list[str]:
        tried.append("once more")
        raise SandboxUnavailable

    monkeypatch.setattr(engine_module, "RETRY_AFTER_S", 0.1)
    async with engine() as jails:
        strength = jails.strength
        with monkeypatch.context() as patched:
            patched.setattr(selftest, "breaches", lost)
            assert jails._pool is not None
            jails._pool.zygote._process.kill()
            await until(lambda: len(tried) >= 6)  # As many as there are steps down, and more.
            assert jails.problem is not None
        await until(lambda: jails.problem is None)
        assert jails.strength == strength


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_shortage_of_descriptors_fails_a_call_and_not_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short(_flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with engine() as jails:
        with monkeypatch.context() as patched:
            patched.setattr(os, "pipe2", short)
            with pytest.raises(SandboxUnavailable):
                await run(jails, "print(1)")
        assert await run(jails, "print(1)") == (Verdict(Outcome.OK), "1\n")


async def test_what_a_program_reads_cannot_be_changed_by_it() -> None:
    """Else its standard input would be memory that nobody counts."""
    async with engine() as jails:
        code = "import os\ntry: os.write(0, b'x')\nexcept OSError: print('refused')"
        assert await run(jails, code) == (Verdict(Outcome.OK), "refused\n")
