"""Folders with many files."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def link(source: Path, target: Path) -> None:
    """Make `target` the same tree as `source`, of the same files where the file system can do that.

    It takes no room then, and jails of all profiles share the pages of what they have in common.
    """
    shutil.copytree(source, target, symlinks=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # Another file system, or one without links.
        shutil.copy2(source, target)


MADE_S = 315_532_800  # 1980, before which some archives know no time.


def finish(tree: Path) -> None:
    """Readable by all, writable by the owner, executable only what is a program, and of no time."""
    programs = {tree / "root/usr/bin", tree / "kit"}
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            os.utime(path, (MADE_S, MADE_S), follow_symlinks=False)
            continue
        program = path.parent in programs or path.name.startswith("ld-")
        path.chmod(0o755 if program or path.is_dir() else 0o644)
        os.utime(path, (MADE_S, MADE_S))


def replace(folder: Path, made: Path) -> None:
    """Put `made`, which lies beside `folder`, in its place."""
    replaced = made.with_name(f"{made.name}-replaced")
    if folder.exists():
        folder.rename(replaced)
    made.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone with `folder`, which need not exist."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
