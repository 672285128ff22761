"""The supervisor keeps real processes: what they do is made up, everything around them is not."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from deploy.local import board, control, stack
from deploy.local.control import Outcome
from deploy.local.errors import StackBrokenError, StackError
from deploy.local.ports import free_ports
from deploy.local.process import Identity
from deploy.local.settings import Settings
from deploy.local.stack import PartStatus, Status
from services.common.restarts import RestartPolicy
from tests.fakes.stand_in_parts import SERVE, StandIn, StandIns

WITHIN_S = 20.0
QUICK = RestartPolicy(first_delay_s=0.05, longest_delay_s=0.05, restarts_max=2, window_s=60.0)
# Leaves a child in its group and one in a session of its own, neither of which asked to die with anybody.
SERVE_WITH_CHILDREN = f"""
import subprocess, sys
for alone in (False, True):
    subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"], start_new_session=alone)
{SERVE}
"""
IGNORE_TERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SERVE}"


# A preparation that goes on talking, and an `up` of its own process.
CHATTER = "import sys, time\nwhile True: print('more', file=sys.stderr, flush=True); time.sleep(0.05)"
UP = """
import os, sys
from pathlib import Path
from deploy.local import control
control.up(Path(sys.argv[1]), sys.argv[2:], os.environ, lambda line: None)
"""


class Home:
    """One stack of stand-ins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []

    def up(self, *parts: StandIn, policy: RestartPolicy = QUICK) -> Outcome:
        argv = StandIns(parts=parts, policy=policy).argv(self.path)
        return control.up(self.path, argv, os.environ, self.said.append)

    def down(self) -> bool:
        return control.down(self.path, self.said.append)

    @property
    def status(self) -> Status:
        return stack.status(Settings(home=self.path, cache=self.path))

    def part(self, name: str) -> PartStatus:
        return next(part for part in self.status.parts if part.name == name)

    def pid(self, name: str) -> int:
        pid = self.part(name).pid
        assert pid is not None
        return pid

    def processes(self) -> list[psutil.Process]:
        """All of the stack: the warden, and everything below it."""
        running = board.of_running(self.path)
        assert running is not None
        assert running.warden is not None
        warden = psutil.Process(running.warden.pid)
        return [warden, *warden.children(recursive=True)]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    home.down()


@pytest.fixture
def ports() -> Iterator[int]:
    return iter(free_ports(5))


def eventually(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.02)


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(_lives(process) for process in processes)


def is_ready_again(home: Home, name: str, restarts: int) -> bool:
    part = home.part(name)
    return (part.state, part.restarts) == ("ready", restarts)


def has_started(home: Home, name: str) -> bool:
    return any(part.name == name and part.pid is not None for part in home.status.parts)


@contextmanager
def watching(home: Home, seen: list[psutil.Process]) -> Iterator[None]:
    """Gather the processes of a stack that comes and goes."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            with suppress(psutil.NoSuchProcess, AssertionError):
                seen.extend(process for process in home.processes() if process not in seen)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def test_up_returns_when_all_are_ready_and_a_second_one_does_nothing(
    home: Home, ports: Iterator[int]
) -> None:
    store = StandIn(name="store", port=next(ports))
    once = StandIn(name="once", port=next(ports), after=("store",), one_shot=True, code="print('done')")
    edge = StandIn(
        name="edge", port=next(ports), after=("once",), prepare="import sys; print('half', file=sys.stderr)"
    )
    assert home.up(store, once, edge) is Outcome.STARTED
    status = home.status
    assert (status.running, status.ready) == (True, True)
    assert [(part.name, part.state, part.health) for part in status.parts] == [
        ("store", "ready", "ok"),
        ("once", "done", "ok"),
        ("edge", "ready", "ok"),
    ]
    told = [" ".join(line.split()[2:]) for line in home.said]
    assert (
        told.index("store ready")
        < told.index("once starting")
        < told.index("once done")
        < told.index("edge starting")
    )
    assert "edge half" in told, "what a preparation says is progress"
    before = home.processes()
    assert home.up(store, once, edge) is Outcome.WAS_UP
    assert home.processes() == before


def test_down_leaves_no_process_and_no_state(home: Home, ports: Iterator[int]) -> None:
    stubborn = StandIn(name="stubborn", port=next(ports), code=IGNORE_TERM, stop_within_s=0.3)
    home.up(stubborn, StandIn(name="parent", port=next(ports), code=SERVE_WITH_CHILDREN))
    processes = home.processes()
    assert len(processes) == 6, "warden, supervisor, two parts, two children"
    assert home.down() is True
    assert all_gone(processes)
    assert sorted(path.name for path in home.path.iterdir()) == ["logs"]
    assert home.down() is False
    assert home.status.running is False


def test_a_killed_part_comes_back_alone(home: Home, ports: Iterator[int]) -> None:
    home.up(
        StandIn(name="store", port=next(ports), code=SERVE_WITH_CHILDREN),
        StandIn(name="edge", port=next(ports), after=("store",)),
    )
    store, edge = home.pid("store"), home.pid("edge")
    in_its_group = [child for child in psutil.Process(store).children() if os.getpgid(child.pid) == store]
    os.kill(store, signal.SIGKILL)
    eventually(partial(is_ready_again, home, "store", 1))
    assert home.pid("store") != store
    assert home.pid("edge") == edge
    assert in_its_group
    assert all_gone(in_its_group), "the new one must not meet children of the old one"
    eventually(lambda: home.status.ready)


def test_a_part_that_dies_too_often_is_given_up_and_the_others_stay(home: Home, ports: Iterator[int]) -> None:
    parts = (
        StandIn(name="frail", port=next(ports)),
        StandIn(name="edge", port=next(ports), after=("frail",)),
    )
    home.up(*parts)
    for restarts in range(QUICK.restarts_max + 1):
        eventually(partial(is_ready_again, home, "frail", restarts))
        os.kill(home.pid("frail"), signal.SIGKILL)
    eventually(lambda: home.part("frail").state == "failed")
    status = home.status
    assert (status.running, status.ready) == (True, False)
    assert home.part("edge").health == "ok"
    assert "was killed" in home.part("frail").health
    with pytest.raises(StackBrokenError, match=r"frail failed too often: .* run `make down`, then `make up`"):
        home.up(*parts)


@pytest.mark.parametrize("victim", ["supervisor", "warden"])
def test_nothing_survives_the_supervisor(home: Home, ports: Iterator[int], victim: str) -> None:
    parts = [StandIn(name="parent", port=next(ports), code=SERVE_WITH_CHILDREN)]
    home.up(*parts)
    running, processes = board.of_running(home.path), home.processes()
    assert running is not None
    assert running.warden is not None
    os.kill(running.supervisor.pid if victim == "supervisor" else running.warden.pid, signal.SIGKILL)
    eventually(lambda: all_gone(processes))
    assert home.status.running is False
    assert home.up(*parts) is Outcome.STARTED, "what is left of the old one is recognised"


def test_a_stale_notice_harms_nobody(home: Home, ports: Iterator[int]) -> None:
    """After a crash of the machine the pids in it are other programs'."""
    innocent = Identity(os.getpid(), "another boot:1")
    home.path.mkdir()
    stale = board.Board(supervisor=innocent, warden=innocent, ready=True, edge="", model_source="")
    board.write(home.path, stale)
    assert home.status.running is False
    assert home.down() is False
    assert not board.path(home.path).exists()
    board.write(home.path, stale)
    assert home.up(StandIn(name="store", port=next(ports))) is Outcome.STARTED


LIBRARY = "x: error while loading shared libraries: libz.so.1: cannot open shared object file: No such file"
FAILURES = {
    "library": (
        StandIn(name="broken", code=f"import sys; sys.exit({LIBRARY!r})"),
        "it needs the library libz.so.1, which this machine lacks; install it (Debian: `apt-get install zlib1g`)",
    ),
    "disk": (
        StandIn(name="broken", code="import sys; sys.exit('OSError: [Errno 28] No space left on device')"),
        "the disk of {home} is full; free some space there, or set OLLAMESH_HOME to a folder on another disk",
    ),
    "download": (
        StandIn(
            name="broken", prepare="import sys; sys.exit('ollamesh: the model is gone; check the network')"
        ),
        "the model is gone; check the network",
    ),
    "status": (StandIn(name="broken", code="raise SystemExit(7)"), "it ended with status 7"),
    "silence": (
        StandIn(name="broken", code="import time; time.sleep(60)", start_within_s=0.5),
        "it was not ready within 0.5 s; nothing answers on port {port}",
    ),
}


@pytest.mark.parametrize("cause", FAILURES)
def test_a_failure_is_one_sentence_and_leaves_nothing(home: Home, ports: Iterator[int], cause: str) -> None:
    defect, sentence = FAILURES[cause]
    good = StandIn(name="good", port=next(ports), code=SERVE_WITH_CHILDREN)
    broken = replace(defect, port=next(ports), after=("good",))
    seen: list[psutil.Process] = []
    with pytest.raises(StackError) as failure, watching(home, seen):
        home.up(good, broken)
    log = home.path / "logs" / "broken.log"
    said = sentence.format(home=home.path, port=broken.port)
    assert str(failure.value) == f"broken could not be started: {said} (log: {log})"
    assert len(seen) > 2
    assert all_gone(seen)
    assert not board.path(home.path).exists()


def test_a_port_that_is_taken_meanwhile_is_said_so(home: Home, ports: Iterator[int]) -> None:
    late = StandIn(name="late", port=next(ports))
    with socket.create_server(("127.0.0.1", late.port)), pytest.raises(StackError) as failure:
        home.up(late)
    assert f"its port {late.port} was taken while it started; set OLLAMESH_STANDIN_PORT" in str(failure.value)


def test_a_stop_while_it_starts_leaves_nothing(home: Home, ports: Iterator[int]) -> None:
    slow = StandIn(name="slow", port=next(ports), after=("good",), code="import time; time.sleep(60)")

    def stop() -> None:
        eventually(lambda: has_started(home, "slow"))
        home.down()

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(StackError, match="it was stopped before it was ready"):
        home.up(StandIn(name="good", port=next(ports)), slow)
    stopping.join()
    assert home.status.running is False


@pytest.mark.parametrize("farewell", [signal.SIGINT, signal.SIGKILL])
def test_a_stack_that_nobody_waits_for_any_longer_stops(
    home: Home, ports: Iterator[int], farewell: int
) -> None:
    slow = StandIn(name="slow", port=next(ports), code="import time; time.sleep(60)", prepare=CHATTER)
    starter = subprocess.Popen(
        [sys.executable, "-c", UP, str(home.path), *StandIns(parts=(slow,), policy=QUICK).argv(home.path)],
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: has_started(home, "slow"))
    processes = home.processes()
    starter.send_signal(farewell)
    starter.wait()
    eventually(lambda: all_gone(processes))


def test_of_two_that_start_it_at_once_one_does(home: Home, ports: Iterator[int]) -> None:
    part = StandIn(name="store", port=next(ports))
    with ThreadPoolExecutor(2) as threads:
        outcomes = [threads.submit(home.up, part) for _ in range(2)]
    assert {outcome.result() for outcome in outcomes} == {Outcome.STARTED, Outcome.WAS_UP}


def test_two_homes_live_side_by_side(home: Home, ports: Iterator[int], tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    home.up(StandIn(name="store", port=next(ports)))
    other.up(StandIn(name="store", port=next(ports)))
    other.down()
    assert home.status.ready is True
