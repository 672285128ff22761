"""Runs `ollama serve` for each GPU, and runs it again when it dies.

Each is the leader of a group of its own, so that the runners that it starts, which hold the GPU's memory, end with
it. None outlives the service: the kernel tells it to end when its parent is gone (services/common/launch.py).
What a server writes is logged at debug level, line by line; its last lines are kept until its end is explained.
"""

import asyncio
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from services.common.launch import Guard
from services.inference.core.restarts import OwnedPolicy, Phase, Restarts
from services.inference.core.serving import Serving

log = structlog.get_logger(__name__)

GRACE_S = 5.0  # What it may take to end its runners; a wedged one needs for ever.
KILL_WITHIN_S = 10.0  # A process that waits for a broken driver cannot be killed; it is not waited for.
LINE_BYTES_MAX = 500
LINES_KEPT = 5
# Asked to end, Ollama also ends its runners; killed, it could not.
_GUARD = Guard(orphan_signal=signal.SIGTERM)


class Owned:
    """The servers that are ours to start and to end."""

    def __init__(
        self, servings: Sequence[Serving], *, binary: str, policy: OwnedPolicy, changed: Callable[[str], None]
    ) -> None:
        """`changed` is told the name of a server whose process has ended."""
        self._keepers = {
            serving.name: _Keeper(serving, binary, Restarts(policy), changed) for serving in servings
        }

    async def run(self) -> None:
        """Keep all of them running until cancelled; then end them."""
        async with asyncio.TaskGroup() as tasks:
            for name, keeper in self._keepers.items():
                tasks.create_task(keeper.run(), name=f"keep {name}")

    def restart(self, name: str, reason: str) -> bool:
        """End a server and start it anew, because `reason`. False if it is not ours, or its budget is spent."""
        keeper = self._keepers.get(name)
        return keeper is not None and keeper.restart(reason)

    def trouble(self, name: str) -> str:
        """Return why a server does not run; empty if it does, or is not ours."""
        keeper = self._keepers.get(name)
        return "" if keeper is None else keeper.trouble


class _Keeper:
    """Keeps one server running."""

    def __init__(
        self, serving: Serving, binary: str, restarts: Restarts, changed: Callable[[str], None]
    ) -> None:
        self._serving = serving
        self._binary = binary
        self._restarts = restarts
        self._changed = changed
        self._wake = asyncio.Event()  # It ended, or is to be ended.

    @property
    def trouble(self) -> str:
        return self._restarts.reason

    def restart(self, reason: str) -> bool:
        restarted = self._restarts.ask(reason, asyncio.get_running_loop().time())
        if self._restarts.phase is Phase.ENDING:
            self._wake.set()
        return restarted

    async def run(self) -> None:
        while True:
            how, lines = await self._serve()
            pause_s = self._restarts.ended(how, asyncio.get_running_loop().time())
            log.warning(
                "owned_instance_ended",
                instance=self._serving.name,
                reason=self._restarts.reason,
                restart_in_s=pause_s,
                last_lines=lines,
            )
            self._changed(self._serving.name)
            await asyncio.sleep(pause_s)

    async def _serve(self) -> tuple[str, list[str]]:
        """Run it once, to its end. Return how it ended, as the end of a sentence, and its last lines."""
        self._wake.clear()
        try:
            process = await _start(self._binary, self._serving, self._wake)
        except OSError as error:
            return f"could not be started ({error.strerror})", []
        self._restarts.started()
        log.info(
            "owned_instance_started",
            instance=self._serving.name,
            gpu=self._serving.gpu,
            pid=process.transport.get_pid(),
        )
        try:
            await self._wake.wait()
        finally:
            await process.end()
        return _how(process.transport.get_returncode()), list(process.lines)


class _Process(asyncio.SubprocessProtocol):
    """A running server: what it writes, and its end."""

    transport: asyncio.SubprocessTransport

    def __init__(self, name: str, wake: asyncio.Event) -> None:
        self._name = name
        self._wake = wake
        self._ended = asyncio.Event()
        self._unfinished = b""
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self.transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - There is but one.
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        self._unfinished = self._unfinished[:LINE_BYTES_MAX]  # The rest of an endless line is lost.
        for line in lines:
            text = line[:LINE_BYTES_MAX].decode(errors="replace").rstrip()
            self.lines.append(text)
            log.debug("owned_instance_output", instance=self._name, line=text)

    def process_exited(self) -> None:
        self._ended.set()
        self._wake.set()

    async def end(self) -> None:
        """End the server and all that it started. Idempotent; waits for a bounded time."""
        try:
            if not self._ended.is_set():
                self._signal_group(signal.SIGTERM)
                await self._until_ended(GRACE_S)
        finally:
            self._signal_group(signal.SIGKILL)
        if not await self._until_ended(KILL_WITHIN_S):
            log.error("owned_instance_immortal", instance=self._name, pid=self.transport.get_pid())
        self.transport.close()

    async def _until_ended(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        return self._ended.is_set()

    def _signal_group(self, number: int) -> None:
        # Numbers are handed out in a circle: that of a process that has just ended is not another's yet.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.transport.get_pid(), number)


async def _start(binary: str, serving: Serving, wake: asyncio.Event) -> _Process:
    _, process = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Process(serving.name, wake),
        *_GUARD.command((binary, "serve")),
        env=dict(serving.variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return process


def _how(status: int | None) -> str:
    if status is None:
        return "cannot be ended"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
