"""Where runsc keeps what it must write down: a folder for this process, in the temporary folder.

It is locked for as long as the process lives, so that a later one can tell what was left behind by one that was
killed, and removes it: the folder, and processes whose command names it, if there are any.
"""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "ollamesh-gvisor-"


@contextmanager
def opened() -> Iterator[Path]:
    """A folder that any user can walk into. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder.chmod(0o711)
            (folder / "ready").touch()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove what processes of this user that no longer live have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            with (folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between its making and its lock a folder is not ready, and not to be taken away.
                if (folder / "ready").exists():
                    _end_processes(folder)
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # Somebody has it, or has just removed it.


def _end_processes(folder: Path) -> None:
    """End those of runsc that have their state in `folder`: each says so in its command."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            program, *arguments = command.read_bytes().decode("utf-8", "replace").split("\0")
            if "runsc" in program and any(f"{folder}/jail-" in argument for argument in arguments):
                os.kill(int(command.parent.name), signal.SIGKILL)


def make_state(folder: Path, uid: int | None) -> None:
    """Make a folder for one jail, of the user `uid`, or of ours. Raises OSError."""
    folder.mkdir(mode=0o700)
    if uid is not None:
        os.chown(folder, uid, uid)


def remove_state(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
