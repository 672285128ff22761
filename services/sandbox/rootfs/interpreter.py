"""The interpreter that this program runs with, and what it is called in a root."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
RUNTIME = VERSION.replace("python", "python ")
# The real one: a virtual environment's has no library beside it.
INTERPRETER = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]  # noqa: SLF001
LIBRARY = Path(os.__file__).parent


def library_in(root: Path) -> Path:
    """The folder of the standard library."""
    return root / "usr" / sys.platlibdir / VERSION


def packages_in(root: Path) -> Path:
    """The folder where a jail's interpreter looks for packages; distributions differ in it."""
    return root / _packages().relative_to("/")


@cache
def _packages() -> Path:
    # The real interpreter is asked: Debian's looks elsewhere than a virtual environment of it does.
    ask = "import site; print(site.getsitepackages(['/usr'])[0])"
    command = [str(INTERPRETER), "-I", "-S", "-c", ask]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())  # noqa: S603 -- our own.


def compile_all(folder: Path, root: Path) -> None:
    """Compile the modules in `folder`, a part of `root`.

    Unchecked, because nothing changes a root: the result then does not depend on when it was made.
    """
    # A program of its own: its workers are forks, and a fork of a process that uses gRPC may hang.
    command = [sys.executable, "-s", "-S", "-m", "compileall", "-qq", "-j", "0"]
    options = ["--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/", str(folder)]
    env = {"PATH": os.defpath, "PYTHONHASHSEED": "0"}
    # Some of a library's own test data does not compile, and need not.
    subprocess.run([*command, *options], check=False, env=env)  # noqa: S603 -- every argument is ours.
