"""Runs `ollama serve` for each GPU, and runs it again when it dies.

Each is the leader of a group of its own, so that the runners that it starts, which hold the GPU's memory, end with
it. None outlives the service: the kernel tells it to end when its parent is gone (services/common/launch.py).
What a server writes is logged at debug level, line by line; its last lines are kept until its end is explained.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from services.common.launch import Guard
from services.inference.core.restarts import OwnedPolicy, Phase, Restarts
from services.inference.core.serving import Serving

log = structlog.get_logger(__name__)

GRACE_S = 5.0  # What it may take to end its runners.
KILL_WITHIN_S = 10.0  # A process that waits for a broken driver cannot be killed; it is not waited for.
LINE_BYTES_MAX = 500
LINES_KEPT = 5
READ_BYTES = 65_536
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
            process = _Process(self._binary, self._serving, self._wake)
        except OSError as error:
            return f"could not be started ({error.strerror})", []
        self._restarts.started()
        log.info(
            "owned_instance_started",
            instance=self._serving.name,
            gpu=self._serving.gpu,
            pid=process.pid,
        )
        try:
            await self._wake.wait()
        finally:
            # Who is wedged would not listen, and has nothing to save.
            how = await process.end(grace_s=0.0 if self._restarts.phase is Phase.ENDING else GRACE_S)
        return how, list(process.lines)


class _Process:
    """A running server: what it writes, and its end.

    Not asyncio's own subprocess: on uvloop that is a fork, which runs gRPC's handlers, and a process is reaped before
    its group can be ended. subprocess.Popen does neither, and must be called by the loop's thread, for the kernel
    ties the server to the thread that started it.
    """

    def __init__(self, binary: str, serving: Serving, wake: asyncio.Event) -> None:
        """Start it. Raises OSError."""
        self._name = serving.name
        self._wake = wake
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._unfinished = b""
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._output, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.set_blocking(theirs, True)
            self._popen = subprocess.Popen(  # noqa: S603 - The operator's program.
                _GUARD.command((binary, "serve")),
                env=dict(serving.variables),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._output)
            raise
        finally:
            os.close(theirs)
        self.pid = self._popen.pid
        self._loop.add_reader(self._output, self._read)
        threading.Thread(target=self._wait, name=f"wait for {self._name}", daemon=True).start()

    async def end(self, *, grace_s: float) -> str:
        """End the server and all that it started. Return how it ended, as the end of a sentence.

        Waits for a bounded time, unless it is cancelled again: then it kills at once.
        """
        try:
            if grace_s and not self._ended.is_set():
                self._signal_group(signal.SIGTERM)
                await self._until_ended(grace_s)
        finally:
            self._signal_group(signal.SIGKILL)
        ended = await self._until_ended(KILL_WITHIN_S)
        self._loop.remove_reader(self._output)
        os.close(self._output)
        if not ended:
            log.error("owned_instance_immortal", instance=self._name, pid=self.pid)
            return "cannot be ended"
        status = self._popen.wait()  # From here on its number may be another's.
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def _wait(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with suppress(RuntimeError):  # The loop may be closed by now.
            self._loop.call_soon_threadsafe(self._exited)

    def _exited(self) -> None:
        self._ended.set()
        self._wake.set()

    def _read(self) -> None:
        with suppress(BlockingIOError):
            if data := os.read(self._output, READ_BYTES):
                self._take(data)
            else:
                self._loop.remove_reader(self._output)

    def _take(self, data: bytes) -> None:
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        self._unfinished = self._unfinished[:LINE_BYTES_MAX]  # The rest of an endless line is lost.
        for line in lines:
            text = line[:LINE_BYTES_MAX].decode(errors="replace").rstrip()
            self.lines.append(text)
            log.debug("owned_instance_output", instance=self._name, line=text)

    async def _until_ended(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        return self._ended.is_set()

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
