"""Limits that only refuse: that one was reached is told, by whoever refused, and never by the program."""

import os
from collections.abc import AsyncIterator

import pytest

from services.sandbox.adapters.ns import cgroups
from services.sandbox.adapters.ns.cgroups import Cgroups
from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.core.limits import LimitKind, Limits
from tests.service.sandbox_engine import USUAL, ended, engine

FILL = "try:\n    with open('/work/x', 'wb') as file:\n        while True: file.write(bytes(1 << 20))\nexcept OSError: pass"
SCATTER = "import os\ntry:\n    for number in range(10_000): os.mkdir(f'/tmp/{number}')\nexcept OSError: pass"
FORK = (
    "import os, time\ntry:\n    while os.fork(): pass\n    time.sleep(3600)\nexcept OSError: print('refused')"
)
THREADS = """
import threading, time
try:
    while True: threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
except RuntimeError: print("refused")
"""


@pytest.fixture
async def jails() -> AsyncIterator[NsJails]:
    async with engine() as made:
        yield made


@pytest.mark.parametrize(
    ("code", "reached"),
    [
        ("print(1)", set()),
        (FILL, {LimitKind.FILES}),
        (SCATTER, {LimitKind.FILES}),
        (f"{FILL}\nimport os; os.unlink('/work/x')", set()),  # What was given back is not missed.
    ],
    ids=["nothing", "bytes", "names", "given-back"],
)
async def test_files(jails: NsJails, code: str, reached: set[LimitKind]) -> None:
    ending, _ = await ended(jails, code)
    assert (ending.status, set(ending.reached)) == (0, reached)


@pytest.mark.parametrize("code", [FORK, THREADS], ids=["processes", "threads"])
@pytest.mark.parametrize("limits", [USUAL, Limits(process_count=8)], ids=["usual", "few"])
async def test_processes(jails: NsJails, code: str, limits: Limits) -> None:
    ending, output = await ended(jails, code, limits)
    assert "refused" in output
    assert jails._pool is not None
    told = "pids" in jails._pool._means.cgroups.controllers
    assert set(ending.reached) == ({LimitKind.PROCESSES} if told else set())


async def test_without_cgroups_processes_are_limited_and_it_is_said_that_nobody_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cgroups, "find", lambda: Cgroups(()))
    async with engine() as jails:
        ending, output = await ended(jails, FORK, Limits(process_count=8))
        assert ("refused" in output, set(ending.reached)) == (True, set())
        assert any("Nobody is told" in weakness for weakness in jails.strength.weaknesses)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
async def test_a_program_that_reaches_nothing_just_below_its_limit(jails: NsJails) -> None:
    count = 7  # And the program itself.
    code = f"import os, time\nfor _ in range({count}):\n    if os.fork() == 0: time.sleep(3600)\nprint('all')"
    ending, output = await ended(jails, code, Limits(process_count=8))
    assert (ending.status, output, set(ending.reached)) == (0, "all\n", set())
