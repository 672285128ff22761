"""The engine `ns` in this process: what it does on machines that refuse something."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from services.sandbox.adapters.ns import cgroups, selftest
from services.sandbox.adapters.ns.cgroups import Cgroups, Home
from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.core.lifecycle import Outcome, Verdict, judge
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import Program
from tests.service.ns_jails import engine
from tests.service.sandbox_app import TIMEOUT_S

USUAL = Limits()


async def run(jails: NsJails, code: str) -> tuple[Verdict | None, str]:
    output = bytearray()
    jail = await jails.take(USUAL)
    jail.begin(Program(code.encode(), b""), lambda _stream, data: output.extend(data))
    async with asyncio.timeout(TIMEOUT_S):
        return judge(None, await jail.ended()), output.decode()


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
