"""What the sandbox is set beside: a bare interpreter, and ways to jail a program that are begun anew for each one.

The guide's own way is a container for each call, which needs Docker's daemon; what runs here without one is the same
idea at its cheapest: bubblewrap, with the same interpreter and the same root as our jails, but without filter, cgroup
or init. gVisor takes part if `runsc` is installed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from services.sandbox.adapters.ns import launcher
from services.sandbox.adapters.ns.outer import JAIL_UID

TIMEOUT_S = 60
Peer = Callable[[str], None]  # Runs code; raises if that fails.


def bare(code: str) -> None:
    """No jail at all."""
    _run([sys.executable, "-I", "-c", code])


def bubblewrap(folder: Path) -> Peer:
    """A jail for each call, of the profile in `folder`."""
    kit = folder / "kit"
    become = [
        sys.executable,
        "-I",
        "-S",
        launcher.__file__,
        str(JAIL_UID),
        "",
        str(folder),
        str(folder),
        str(kit / "lib"),
    ]
    command = [
        *(become if os.geteuid() == 0 else []), str(kit / "bwrap"), "--unshare-all", "--die-with-parent",
        "--as-pid-1", "--new-session", "--clearenv", "--ro-bind", str(folder / "root"), "/", "--proc", "/proc",
        "--tmpfs", "/tmp", "--dev", "/dev", "--chdir", "/tmp", "/usr/bin/python3", "-I", "-B", "-c",
    ]  # fmt: skip

    def run(code: str) -> None:
        _run([*command, code], env={"LD_LIBRARY_PATH": str(kit / "lib")})

    return run


def gvisor(folder: Path) -> Peer | None:
    """A container for each call; None without gVisor."""
    runsc = shutil.which("runsc")
    if runsc is None:
        return None
    rootless = [] if os.geteuid() == 0 else ["--rootless"]

    def run(code: str) -> None:
        with tempfile.TemporaryDirectory() as bundle:
            Path(bundle, "config.json").write_text(json.dumps(_container(folder / "root", code)))
            state = ["--root", f"{bundle}/state", "--network=none", "--ignore-cgroups", *rootless]
            _run([runsc, *state, "run", "--bundle", bundle, f"bench-{os.getpid()}"])

    return run


def _container(root: Path, code: str) -> dict[str, object]:
    process = {
        "args": ["/usr/bin/python3", "-I", "-B", "-c", code],
        "cwd": "/",
        "user": {"uid": 65534, "gid": 65534},
        "env": ["PATH=/usr/bin", "LANG=C.UTF-8"],
    }
    kinds = ("pid", "network", "ipc", "uts", "mount")
    return {
        "ociVersion": "1.0.0",
        "process": process,
        "root": {"path": str(root), "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0 or done.stdout != b"1\n":
        raise RuntimeError(
            f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')}"
        )
