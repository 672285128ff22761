"""Python packages from a lock: wheels only, by hash, from whatever index this machine is set up for.

What an earlier installation left in uv's cache is enough; only then is the network asked.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from services.sandbox.rootfs import interpreter, libraries
from services.sandbox.rootfs.errors import CannotBuildError

_TOOLS = Path(__file__).parents[3] / ".tools" / "bin"
_TIMEOUT_S = 900.0
# A package's tests, what only a compiler reads, and programs whose first line names our own interpreter.
_FOLDERS_LEFT_OUT = {"test", "tests"}
_SUFFIXES_LEFT_OUT = {".pyi", ".pyx", ".pxd", ".pxi", ".h", ".hpp", ".c", ".cpp", ".a"}
_OFFLINE_SIGNS = ("network was disabled", "Failed to fetch", "error sending request")


def add(lock: Path, root: Path) -> tuple[str, ...]:
    """Install what `lock` names into `root`, and return it as "name version". Raises CannotBuildError."""
    folder = interpreter.packages_in(root)
    folder.mkdir(parents=True)
    _install(lock, folder)
    _prune(folder)
    interpreter.compile_all(folder, root)
    libraries.copy(libraries.of_files(folder.rglob("*.so"), root), root)
    found = ((dist.metadata["Name"], dist.version) for dist in distributions(path=[str(folder)]))
    return tuple(f"{name} {version}" for name, version in sorted(found, key=lambda pair: pair[0].lower()))


def _install(lock: Path, folder: Path) -> None:
    command = [
        *(_uv(), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder)),
        *("--require-hashes", "--only-binary", ":all:", "--requirement", str(lock)),
        # A hard link would let whoever damages a root damage uv's cache as well.
        *("--link-mode", "copy"),
    ]
    # English messages without colours, whatever the terminal prefers.
    env = {**os.environ, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "UV_PYTHON_DOWNLOADS": "never"}
    for where in (["--offline"], []):
        done = subprocess.run(  # noqa: S603 -- every argument is ours.
            [*command, *where], env=env, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        if done.returncode == 0:
            return
    raise CannotBuildError(cause(done.stderr, lock))


def cause(said: str, lock: Path) -> str:
    """The sentence for what uv said when it failed."""
    if any(sign in said for sign in _OFFLINE_SIGNS):
        return "the package index does not answer"
    if "Hash mismatch" in said:
        return f"a package is not the one that {lock.name} names"
    if "no wheels" in said or "no usable wheels" in said:
        return f"a package of {lock.name} has no wheel for this machine"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"uv says: {lines[0].removeprefix('error: ')}" if lines else "uv gave no reason"


def _uv() -> str:
    path = os.pathsep.join([str(_TOOLS), os.environ.get("PATH", "")])
    if (uv := shutil.which("uv", path=path)) is None:
        raise CannotBuildError("packages are installed with uv, which is not there: run `make setup` first")
    return uv


def _prune(folder: Path) -> None:
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for path in [path for path in folder.rglob("*") if path.name in _FOLDERS_LEFT_OUT and path.is_dir()]:
        shutil.rmtree(path, ignore_errors=True)
    for path in [path for path in folder.rglob("*") if path.suffix in _SUFFIXES_LEFT_OUT]:
        path.unlink()
