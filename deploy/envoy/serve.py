"""`python -m deploy.envoy.serve ENVOY CONFIGURATION`: runs Envoy, and replaces it without losing a call.

On SIGHUP the configuration is rendered anew, Envoy itself judges it, and a second Envoy takes over the listening
sockets from the first (hot restart). The first one takes nothing new, and has OLLAMESH_EDGE_DRAIN_S to finish what it
has; then the second one ends it. (It must not end sooner: the second one would die of it.) What cannot be rendered or
is judged wrong changes nothing. So a new Envoy, new routes and new code come in under load.

There are never more than two Envoys: who asks again while one is draining is answered when that one has ended. What
came of it stands in `CONFIGURATION.state`, one JSON object: how often it was asked, and what is wrong, if anything.
On SIGTERM all end, after OLLAMESH_EDGE_STOP_DRAIN_S at the latest, in which the one that serves finishes what it has (leaving.py). If one that serves dies, so does this program, and whoever supervises it starts it anew.

Imports nothing that a process which only waits should not carry.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.envoy.leaving import left
from services.common.config import Environment
from services.common.launch import Guard

DRAIN_S = 300.0  # As long as a call may take that names no deadline.
START_WITHIN_S = 60.0
CONNECTIONS_CLOSE_OVER_S = (
    5  # A connection is told to go elsewhere when it is used next, within this time at last.
)
POLL_S = 0.05
OVERDUE_S = 10.0
TOLD_TO_RELOAD, TOLD_TO_STOP = signal.SIGHUP, (signal.SIGTERM, signal.SIGINT)
# Envoy needs nothing of a person's.
ENVIRONMENT = {"PATH": os.defpath}


class ReloadError(Exception):
    """Why the configuration is not taken. The old one stays."""


@dataclass(slots=True)
class State:
    """What whoever asks for a reload wants to know."""

    reload_count: int = 0  # Those that are over, well or not.
    error: str = ""  # Of the last one.
    draining_pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    envoy: str
    configuration: Path
    admin_port: int
    drain_s: float
    stop_drain_s: float  # 0 ends at once.
    arguments: tuple[str, ...]

    @property
    def base_id(self) -> Path:
        return self.configuration.with_suffix(".base")

    @property
    def state(self) -> Path:
        return self.configuration.with_suffix(".state")

    @property
    def candidate(self) -> Path:
        return self.configuration.with_suffix(".candidate.json")


Process = asyncio.subprocess.Process


class Keeper:
    """One Envoy, or two while the first is draining."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._state = State()
        self._epoch = 0
        self._asked, self._stopped = asyncio.Event(), asyncio.Event()
        self._serving: Process | None = None
        self._living: set[Process] = set()
        self._code = 0
        self._tasks = asyncio.TaskGroup()

    def reload(self) -> None:
        self._asked.set()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> int:
        """Until stopped, or until the Envoy that serves is gone. Return its status."""
        self._publish()
        async with self._tasks as tasks:
            self._serving = await self._start()
            reloading = tasks.create_task(self._reload_when_asked())
            await self._stopped.wait()
            reloading.cancel()
            if self._place.stop_drain_s > 0 and self._serving in self._living:
                await left(
                    self._place.admin_port,
                    at_least_s=min(CONNECTIONS_CLOSE_OVER_S, self._place.stop_drain_s),
                    at_most_s=self._place.stop_drain_s,
                )
            for process in self._living:
                process.terminate()
        self._forget_shared_memory()
        return self._code

    async def _reload_when_asked(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            old = self._serving
            assert old is not None
            try:
                await self._prepare()
                self._epoch += 1
                new = await self._start()
                await self._until_it_serves(new)
                self._serving, self._state.error = new, ""
            except ReloadError as error:
                print(f"reload: {error}", file=sys.stderr, flush=True)
                self._state.error = str(error)
            self._state.reload_count += 1
            if self._serving is not old:
                await self._drain(old)
            self._publish()

    async def _prepare(self) -> None:
        """Raises ReloadError if it is not fit to be taken."""
        place = self._place
        rendered = await _output(sys.executable, "-m", "deploy.envoy", env=dict(os.environ))
        place.candidate.write_bytes(rendered)
        try:
            validate = ("--mode", "validate", "--disable-hot-restart", "--log-level", "error")
            await _output(place.envoy, *validate, "-c", str(place.candidate), env=ENVIRONMENT)
            place.candidate.replace(place.configuration)
        finally:
            place.candidate.unlink(missing_ok=True)

    async def _start(self) -> Process:
        place = self._place
        base: tuple[str, ...] = ("--use-dynamic-base-id", "--base-id-path", str(place.base_id))
        if self._epoch > 0:
            base = ("--base-id", place.base_id.read_text().strip(), "--restart-epoch", str(self._epoch))
        argv = (
            *(place.envoy, "-c", str(place.configuration), *base, *place.arguments),
            *("--drain-time-s", str(CONNECTIONS_CLOSE_OVER_S)),
            *("--parent-shutdown-time-s", str(int(place.drain_s))),
            "--skip-hot-restart-parent-stats",  # Else a parent that dies takes its child along.
        )
        process = await asyncio.create_subprocess_exec(
            *Guard().command(argv), env=ENVIRONMENT, stdin=asyncio.subprocess.DEVNULL
        )
        self._living.add(process)
        self._tasks.create_task(self._attend(process))
        return process

    async def _attend(self, process: Process) -> None:
        code = await process.wait()
        self._living.discard(process)
        if process is self._serving and not self._stopped.is_set():
            self._code = code or 1
            self._stopped.set()

    async def _until_it_serves(self, new: Process) -> None:
        try:
            async with asyncio.timeout(START_WITHIN_S):
                while await _epoch_at(self._place.admin_port) != self._epoch:
                    if new.returncode is not None:
                        self._epoch -= 1
                        raise ReloadError(f"the new Envoy ended with status {new.returncode}")
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            new.kill()
            self._epoch -= 1
            raise ReloadError(f"the new Envoy did not serve within {START_WITHIN_S:g} s") from None

    async def _drain(self, old: Process) -> None:
        """Return when it has ended."""
        self._state.draining_pid = old.pid
        self._publish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._place.drain_s + OVERDUE_S):
                await old.wait()
        if old.returncode is None:
            old.kill()
            await old.wait()
        self._state.draining_pid = None

    def _publish(self) -> None:
        unfinished = self._place.state.with_suffix(".state.unfinished")
        unfinished.write_text(json.dumps(asdict(self._state)))
        unfinished.replace(self._place.state)

    def _forget_shared_memory(self) -> None:
        with contextlib.suppress(OSError):
            base_id = int(self._place.base_id.read_text())
            Path(f"/dev/shm/envoy_shared_memory_{10 * base_id}").unlink()  # noqa: S108 - Envoy made it, by that name.


async def _output(*argv: str, env: dict[str, str]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *Guard().command(argv), env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, complaint = await process.communicate()
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise ReloadError(lines[-1] if lines else f"{argv[0]} ended with status {process.returncode}")
    return output


async def _epoch_at(admin_port: int) -> int | None:
    """Of the Envoy that answers there, if it serves; else None."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", admin_port)
        try:
            path = "/stats?filter=^server.(state|hot_restart_epoch)$"
            writer.write(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            answer = (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
    except OSError:
        return None
    stats = dict(line.split(": ", 1) for line in answer.splitlines() if line.startswith("server."))
    return int(stats["server.hot_restart_epoch"]) if stats.get("server.state") == "0" else None


async def _main(arguments: Sequence[str]) -> int:
    envoy, configuration, *more = arguments
    env = Environment(os.environ)
    place = Place(
        envoy=envoy,
        configuration=Path(configuration),
        admin_port=env.integer("OLLAMESH_ADMIN_PORT", 9901, high=65_535),
        drain_s=env.seconds("OLLAMESH_EDGE_DRAIN_S", DRAIN_S, low=1, high=86_400),
        stop_drain_s=env.seconds("OLLAMESH_EDGE_STOP_DRAIN_S", 0, high=86_400),
        arguments=tuple(more),
    )
    env.check()
    keeper, loop = Keeper(place), asyncio.get_running_loop()
    loop.add_signal_handler(TOLD_TO_RELOAD, keeper.reload)
    for number in TOLD_TO_STOP:
        loop.add_signal_handler(number, keeper.stop)
    return await keeper.run()


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(sys.argv[1:])))
