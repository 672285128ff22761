"""Finds runsc, and starts it.

**Never as root.** Without a user namespace runsc's own processes would be the host's root, and with one made by root
they would map to it. So root becomes JAIL_UID first, as for the engine `ns`, and from there runsc is used as any
ordinary user uses it: --rootless. Control groups are ours, entered before.

A jail ends with the service. Where there is something to be done before runsc starts (see launcher), the kernel sees
to that; in any case the jail's init does, which reads from a pipe to the service; and `place.sweep` ends what may be
left of either.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from services.sandbox.adapters.gvisor import launcher
from services.sandbox.adapters.gvisor.inside.wire import CONTROL, RESULTS, STDERR, STDOUT, TOLD

JAIL_UID = 65100  # Of the range that Debian and systemd leave to nobody; not the one of `ns`.
CONTAINER = "jail"

# systrap: the only platform that needs no device and is quick. No network, and nothing of the host's file system
# but what the bundle names, through a process of its own (directfs would let the kernel itself open files).
_FLAGS = (
    "--rootless", "--platform=systrap", "--network=none", "--ignore-cgroups", "--directfs=false",
    "--overlay2=none", "--host-uds=none", "--host-fifo=none", "--log=/dev/null",
)  # fmt: skip
_READ_BY_US = (TOLD, STDOUT, STDERR, RESULTS)
_VERSION_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Started:
    """A jail that is being made."""

    process: "subprocess.Popen[bytes]"
    pipes: Mapping[int, int]  # The jail's descriptor to our end; non-blocking.

    def abandon(self) -> None:
        """End what nobody can look after."""
        self.process.kill()
        self.process.wait()
        for pipe in self.pipes.values():
            with suppress(OSError):  # Some may be closed already.
                os.close(pipe)


def find(configured: Path | None) -> Path | None:
    """Where runsc is; None if it is not installed."""
    if configured is not None:
        return configured if os.access(configured, os.X_OK) and configured.is_file() else None
    found = shutil.which("runsc")
    return None if found is None else Path(found)


def version(runsc: Path) -> str | None:
    """What it calls itself, such as "0.0~20240729.0"; None if it does not run."""
    try:
        told = subprocess.run(  # noqa: S603 -- the operator's own.
            [runsc, "--version"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            env={},
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return told.split("\n")[0].removeprefix("runsc version ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runsc:
    """Ready to make jails of one bundle."""

    program: Path
    bundle: Path
    root: Path  # What jails see.
    place: Path  # Where the jail's user finds it.

    def start(self, state: Path, doors: Sequence[int]) -> Started:
        """Call it from the main thread: the kernel ends the jail with the thread that started it.

        `state` is a folder for runsc alone, `doors` let it into control groups. Raises OSError.
        """
        with ExitStack() as theirs:
            pipes: dict[int, int] = {}
            given: dict[int, int] = {}
            with ExitStack() as ours:
                for number in range(CONTROL, RESULTS + 1):
                    pipes[number], given[number] = _pipe(number in _READ_BY_US)
                    ours.callback(os.close, pipes[number])
                    theirs.callback(os.close, given[number])
                program = os.open(self.program, os.O_RDONLY | os.O_CLOEXEC)
                theirs.callback(os.close, program)
                process = subprocess.Popen(  # noqa: S603 -- every argument is ours.
                    self._command(state, given, program, doors),
                    env={},  # Nothing of the service's own.
                    pass_fds=(*given.values(), program, *doors),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    start_new_session=True,  # A Ctrl-C is for the service, which then ends its jails.
                )
                ours.pop_all()
            return Started(process, pipes)

    def _command(
        self, state: Path, given: Mapping[int, int], program: int, doors: Sequence[int]
    ) -> list[str]:
        passed = [word for number, host in given.items() for word in ("--pass-fd", f"{host}:{number}")]
        command = ["--root", str(state), *_FLAGS, "run", "--bundle", str(self.bundle), *passed, CONTAINER]
        if os.geteuid() != 0 and not doors:
            return [str(self.program), *command]
        uid = str(JAIL_UID) if os.geteuid() == 0 else "-"
        launch = [sys.executable, "-I", "-S", launcher.__file__, uid, str(self.root), str(self.place)]
        return [*launch, str(program), ",".join(map(str, doors)), str(os.getpid()), *command]


def open_to_all(folder: Path) -> bool:
    """Whether any user can walk to `folder`."""
    return all(parent.stat().st_mode & 0o001 for parent in folder.parents)


def _pipe(is_read_by_us: bool) -> tuple[int, int]:  # noqa: FBT001 -- private.
    """Our end, which does not block, and theirs."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ours, theirs = (reading, writing) if is_read_by_us else (writing, reading)
    os.set_blocking(ours, False)
    return ours, theirs
