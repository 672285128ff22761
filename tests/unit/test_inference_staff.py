"""The head and its workers: none pays for another's loss, nor for time in which the head itself stood still."""

import asyncio
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
from prometheus_client import CollectorRegistry

from services.common.config import Environment
from services.common.restarts import RestartPolicy
from services.inference.config import Config
from services.inference.core.catalog import Catalog
from services.inference.core.estimates import Estimates
from services.inference.core.ledger import Ledger
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler
from services.inference.engine import Controls, Engine
from services.inference.processes import messages as told
from services.inference.processes import staff as staff_module
from services.inference.processes.counts import AllCounts
from services.inference.processes.link import Link
from services.inference.processes.staff import Staff, WorkerFailed
from services.inference.telemetry import Metrics
from tests.unit.engine_rig import until

NO_ROOM = OSError(errno.EAGAIN, "Resource temporarily unavailable")
SLEEPER = (sys.executable, "-I", "-S", "-c", "import signal; signal.pause()")


class Worker:
    """A process that does nothing, for which this one speaks."""

    def __init__(self, place: int, popen: subprocess.Popen[bytes]) -> None:
        self.place = place
        self.popen = popen
        self.link = Link()
        self.link.gives(self._take)
        self.alive_count = 0  # How often it heard of the head.
        self.stopped = False
        self.talks = True

    async def serve(self, theirs: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self.link, sock=theirs)
        self.link.send(told.Serving(port=1000 + self.place))

    def die(self) -> None:
        self.popen.kill()
        self.link.abort()

    @property
    def runs(self) -> bool:
        return self.popen.poll() is None and not self.link.lost

    def _take(self, data: bytes) -> None:
        match told.from_head(data):
            case told.Alive():
                self.alive_count += 1
                if self.talks:
                    self.link.send(told.Counts(families=()))
            case told.Stop():
                self.stopped = True
                self.die()


@dataclass
class Machine:
    """Where workers are started, as long as there is room."""

    full: bool = False
    refused_count: int = 0
    workers: dict[int, Worker] = field(default_factory=dict)
    serving: list[asyncio.Task[None]] = field(default_factory=list)

    def spawned(self, place: int, *_: object) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        if self.full:
            self.refused_count += 1
            raise NO_ROOM
        ours, theirs = socket.socketpair()
        popen = subprocess.Popen(SLEEPER, stdin=subprocess.DEVNULL)
        worker = self.workers[place] = Worker(place, popen)
        self.serving.append(asyncio.create_task(worker.serve(theirs)))
        return ours, popen


def a_staff(count: int, variables: Mapping[str, str] | None = None) -> Staff:
    counts, ledger = AllCounts(CollectorRegistry()), Ledger()
    engine = Engine(
        controls=Controls(instances={}, doubt=lambda _: None, restart=lambda _name, _why: True),
        ledger=ledger,
        scheduler=Scheduler(Policy(), Estimates()),
        catalog=Catalog(),
        metrics=Metrics(CollectorRegistry()),
    )
    return Staff(engine, ledger, counts, instances=(), count=count, variables=variables or {})


@asynccontextmanager
async def at_work(machine: Machine, *, count: int = 2) -> AsyncIterator[asyncio.Task[None]]:
    """A staff whose workers all serve; it is ended at the end."""
    stop, started = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        a_staff(count).run(stop, drain_s=20.0, started=lambda _: started.set()), name="staff"
    )
    try:
        await until(started.is_set)
        yield task
    finally:
        stop.set()
        await task
    assert all(worker.popen.poll() is not None for worker in machine.workers.values())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(staff_module, "_spawned", made.spawned)
    monkeypatch.setattr(staff_module, "ALIVE_EVERY_S", 0.02)
    monkeypatch.setattr(staff_module, "RestartPolicy", partial(RestartPolicy, first_delay_s=0.01))
    return made


async def test_a_worker_that_there_is_no_room_for_is_tried_again_and_the_others_go_on(
    machine: Machine,
) -> None:
    async with at_work(machine) as staff:
        healthy, lost = machine.workers[0], machine.workers[1]
        machine.full = True
        lost.die()
        await until(lambda: staff.done() or machine.refused_count == 3)
        assert not staff.done()
        assert healthy.runs
        machine.full = False
        await until(lambda: machine.workers[1] is not lost and machine.workers[1].alive_count > 0)
        assert machine.workers[0] is healthy
    assert healthy.stopped
    assert machine.workers[1].stopped


async def test_a_service_without_room_for_its_workers_does_not_start(machine: Machine) -> None:
    machine.full = True
    with pytest.raises(ExceptionGroup) as failed:
        await a_staff(2).run(asyncio.Event(), drain_s=1.0, started=lambda _: None)
    assert failed.group_contains(WorkerFailed)
    assert not failed.group_contains(OSError)


async def test_what_was_made_for_a_worker_that_cannot_be_started_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[socket.socket] = []
    pair = socket.socketpair

    def seen() -> tuple[socket.socket, socket.socket]:
        made.extend(pair())
        return made[0], made[1]

    def no_room(*_: object, **__: object) -> None:
        raise NO_ROOM

    monkeypatch.setattr(socket, "socketpair", seen)
    monkeypatch.setattr(subprocess, "Popen", no_room)
    with pytest.raises(ExceptionGroup):
        await a_staff(1).run(asyncio.Event(), drain_s=1.0, started=lambda _: None)
    assert [end.fileno() for end in made] == [-1, -1]


async def test_time_in_which_the_head_stood_still_is_not_held_against_its_workers(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stood still too, perhaps; at any rate it could not hear them."""
    monkeypatch.setattr(staff_module, "SILENT_ROUNDS", 5)
    async with at_work(machine, count=1):
        worker = machine.workers[0]
        worker.talks, heard_count = False, worker.alive_count
        await until(lambda: worker.alive_count > heard_count)
        time.sleep(10 * 5 * staff_module.ALIVE_EVERY_S)  # noqa: ASYNC251 - That is the point.
        worker.talks, heard_count = True, worker.alive_count
        await until(lambda: not worker.runs or worker.alive_count > heard_count + 3 * 5)
        assert worker.runs


async def test_a_worker_that_says_nothing_is_ended(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staff_module, "SILENT_ROUNDS", 5)
    async with at_work(machine) as staff:
        silent = machine.workers[1]
        silent.talks = False
        await until(lambda: silent.popen.poll() is not None)
        assert machine.workers[0].runs
        assert not staff.done()
        await until(lambda: machine.workers[1] is not silent)


async def test_workers_are_told_where_the_instances_are_and_own_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would count the GPUs anew, and one that found others than the head would know other instances."""
    environment = {
        "OLLAMA_GPUS": "all",
        "OLLAMA_HOSTS": "gpu-9, https://Far.example/ollama/, http://[::1]:5",
        "OLLAMESH_OLLAMA_BINARY": sys.executable,
        "OLLAMESH_INSECURE_INSIDE": "true",
        "OLLAMESH_AUTH_TARGET": "127.0.0.1:1",
    }
    found: list[Mapping[str, str]] = []

    def started(*_: object, env: Mapping[str, str], **__: object) -> None:
        found.append(env)
        raise NO_ROOM

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    head = Config.read(Environment(os.environ), gpu_count=lambda: 2)
    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(ExceptionGroup):
        await a_staff(1, head.worker_variables).run(asyncio.Event(), drain_s=1.0, started=lambda _: None)
    given = Environment(found[0])
    worker = Config.read(given, gpu_count=lambda: 1)
    given.check()
    assert len(worker.endpoints) == 5
    assert worker.endpoints == head.endpoints
    assert not worker.servings
