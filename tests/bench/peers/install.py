"""Makes the peers' virtual environments: `python -m tests.bench.peers.install [NAME...]`, all of them without a name.

They are no part of the project: LiteLLM alone has more packages than the mesh, and other versions of some of them.
An environment is finished when its stamp says by which lock, so an interrupted run is done again, and a finished one
costs nothing. Only wheels are taken, because building one would run code of the network with our rights.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.support.report import RESULTS, ROOT

LOCKS = Path(__file__).parent
PEERS = RESULTS / "peers"
NAMES = ("litellm", "vllm_router", "published_saver")
STAMP = "lock.sha256"  # Written last.


class CannotInstallError(Exception):
    """Its text is a sentence for people."""


def installed(name: str, *, peers: Path = PEERS, locks: Path = LOCKS) -> bool:
    """Whether the peer is there, by the lock as it is now."""
    environment, lock = peers / name, locks / f"{name}.lock"
    try:
        return (environment / STAMP).read_text() == _digest(lock) and python(name, peers=peers).exists()
    except OSError:
        return False


def python(name: str, *, peers: Path = PEERS) -> Path:
    return peers / name / "bin" / "python"


def install(name: str, *, peers: Path = PEERS, locks: Path = LOCKS) -> bool:
    """Make `installed(name)` true; return whether there was anything to do. Raises CannotInstallError."""
    if installed(name, peers=peers, locks=locks):
        return False
    environment, lock = peers / name, locks / f"{name}.lock"
    if not lock.exists():
        raise CannotInstallError(f"There is no peer {name}; there are {' and '.join(NAMES)}.")
    try:
        shutil.rmtree(environment, ignore_errors=True)
        peers.mkdir(parents=True, exist_ok=True)
        uv = _uv()
        _run(name, uv, "venv", "--quiet", "--python", sys.executable, str(environment))
        _run(
            *(name, uv, "pip", "sync", "--quiet", "--require-hashes", "--only-binary", ":all:"),
            *("--allow-empty-requirements", "--python", str(python(name, peers=peers)), str(lock)),
        )
        (environment / STAMP).write_text(_digest(lock))
    except OSError as error:
        raise CannotInstallError(f"{name} cannot be had: {error.strerror}: {error.filename}.") from error
    return True


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _uv() -> str:
    path = os.pathsep.join([str(ROOT / ".tools" / "bin"), os.environ.get("PATH", "")])
    if (uv := shutil.which("uv", path=path)) is None:
        raise CannotInstallError(
            "The peers are installed with uv, which is not there: run `make setup` first."
        )
    return uv


def _run(name: str, *command: str) -> None:
    # English messages without colours, whatever the terminal prefers.
    environment = {**os.environ, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise CannotInstallError(f"{name} cannot be had: {_cause(done.stderr)}")


def _cause(output: str) -> str:
    if "Failed to fetch" in output or "error sending request" in output or "network was disabled" in output:
        return "the package index does not answer."
    if "no wheels" in output or "no usable wheels" in output:
        return "one of its packages has no wheel for this machine."
    if "Hash mismatch" in output:
        return "a package is not the one that its lock names."
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"uv says: {lines[0].removeprefix('error: ')}" if lines else "uv gave no reason."


def main(names: Sequence[str]) -> int:
    """Install what is asked for, and say what cannot be had; the others are installed all the same."""
    failed = False
    for name in names or NAMES:
        started_s = time.monotonic()
        try:
            done = install(name)
        except CannotInstallError as error:
            print(error, file=sys.stderr)
            failed = True
        else:
            print(f"{name}: {f'installed in {time.monotonic() - started_s:.0f} s' if done else 'is there'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
