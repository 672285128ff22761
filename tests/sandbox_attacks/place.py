"""A running service to attack: one for each engine that is there and each user that it may run as."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

from tests.sandbox_attacks import weakened
from tests.sandbox_attacks.case import Case
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.remains import pids_of
from tests.service.sandbox_app import ORDINARY_UID, Ran, Service, built_root, descendants, serving
from tests.service.sandbox_gvisor import runsc

ENGINES = ("ns", "gvisor") if runsc() is not None else ("ns",)
USERS = ("root", "user") if os.geteuid() == 0 else ("user",)


@dataclass(frozen=True, slots=True)
class Where:
    """One service's engine and user."""

    engine: str
    user: str

    def __str__(self) -> str:
        return f"{self.engine}-as-{self.user}"

    def is_for(self, case: Case) -> bool:
        return self.engine in case.engines and self.user in case.users


EVERYWHERE = [Where(engine, user) for engine in ENGINES for user in USERS]


@dataclass(frozen=True, slots=True)
class Place:
    where: Where
    service: Service

    def left_behind(self) -> list[int]:
        """Processes of programs; those of warm jails are the first and the second in theirs, and do not count."""
        return [pid for pid in descendants(self.service.process.pid) if inner_pid(pid) > 2]

    def inits(self) -> list[int]:
        """The first process of each jail, warm ones included."""
        return [pid for pid in descendants(self.service.process.pid) if inner_pid(pid) == 1]


class Places:
    """Services, started when first asked for, and kept: a start takes longer than most attacks."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.at = cache(self._start)

    def _start(self, where: Where) -> Place:
        uid = ORDINARY_UID if os.geteuid() == 0 and where.user == "user" else None
        settings = {"OLLAMESH_SANDBOX_ENGINES": where.engine}
        if where.engine == "gvisor":
            settings["OLLAMESH_SANDBOX_RUNSC"] = str(runsc())
        return Place(where, self._stack.enter_context(serving(built_root(), uid=uid, settings=settings)))


@contextmanager
def places() -> Iterator[Places]:
    with ExitStack() as stack:
        yield Places(stack)


async def attack(case: Case, place: Place, outside: Outside) -> None:
    """Run `case`, and fail if it gets at anything."""
    known = {"engine": place.where.engine, "service": place.service.process.pid, "port": _port(place.service)}
    program = outside.program(case.code, **known)
    async with place.service.ready() as sandbox:
        began_s = time.monotonic()
        ran = await sandbox.run(program, limits=case.limits, stdin=case.stdin)
        took_s = time.monotonic() - began_s
    _judge(case, ran)
    assert took_s <= case.within_s
    assert outside.touched() == []
    assert place.left_behind() == []
    assert place.service.process.poll() is None


def _judge(case: Case, ran: Ran) -> None:
    told = [line.split("\t") for line in ran.stdout.splitlines() if "\t" in line]
    breaches = [line for line in told if line[0] in {"BREACH", "BLIND"}]
    assert not breaches, (case.breach, breaches)
    assert ran.outcome in case.outcomes, (ran.outcome, ran.exited, ran.stdout[-2000:], ran.stderr[-2000:])
    if case.gets_through:
        assert told, ran.stderr[-2000:]
        assert told[-1][0] == "TRIED", (ran.stdout[-2000:], ran.stderr[-2000:])
    if case.exit_code is not None:
        assert ran.exited.exit_code == case.exit_code
    if case.signal is not None:
        assert ran.exited.signal == case.signal


async def see(case: Case, outside: Outside) -> None:
    """Show that every act of `case` would be seen: it succeeds in a weakened jail, and says so."""
    assert case.weak is not None
    port = outside.listeners["tcp"].getsockname()[1]
    program = outside.program(case.code, service=outside.canary.pid, port=port)
    printed = await weakened.run(program, built_root(), outside.folder, case.weak)
    told = [line.split("\t") for line in printed.splitlines() if "\t" in line]
    missed = {line[1] for line in told if line[0] == "HELD"} - set(case.unseen)
    assert not missed, printed
    assert any(line[0] == "BREACH" for line in told), printed
    assert told[-1][0] == "TRIED", printed
    _mend(outside)


def _mend(outside: Outside) -> None:
    """Put back what a weakened jail let an attack do."""
    outside.touched()
    for path in outside.folder.iterdir():
        if path.name not in {"secret", "socket"}:
            path.unlink()
    assert outside.touched() == []


def inner_pid(pid: int) -> int:
    """Its pid in its jail; 0 if it is not in one, or has ended."""
    pids = pids_of(pid)
    return pids[-1] if len(pids) == 3 else 0


def _port(service: Service) -> int:
    return int(service.target.rpartition(":")[2])
