"""A jail that is not worth its name: shows that an attack would be seen if it succeeded.

Bubblewrap with namespaces alone: no system call filter, no Landlock, every capability in its own user namespace, a root
that can be written to, and what is planted in sight. It gains nothing on the host: it is an ordinary user there.
"""

import asyncio
import os
import sys
from pathlib import Path

from services.sandbox.adapters.ns import launcher
from services.sandbox.adapters.ns.outer import JAIL_UID
from tests.sandbox_attacks.case import Weak

LIMIT_S = 20


async def run(code: str, root: Path, planted: Path, weak: Weak) -> str:
    """Run `code` in it. Return what it printed."""
    libraries = str(root / "kit/lib")
    wrap = [str(root / "kit/bwrap"), *_walls(root, planted, weak), "/usr/bin/python3", "-I", "-B", "-c", code]
    env = {"LD_LIBRARY_PATH": libraries}
    if os.geteuid() == 0:
        place = str(root)
        wrap = [sys.executable, "-I", "-S", launcher.__file__, str(JAIL_UID), place, place, libraries, *wrap]
        env = {}
    process = await asyncio.create_subprocess_exec(
        *wrap, env=env, cwd="/", stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        printed, _ = await process.communicate()
    return printed.decode("utf-8", "replace")


def _walls(root: Path, planted: Path, weak: Weak) -> list[str]:
    shared = [] if weak is Weak.OPEN else ["--unshare-net", "--unshare-pid"]
    inside = ["usr", "etc"]
    return [
        "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", *shared, "--cap-add", "ALL",
        "--die-with-parent", "--new-session", "--tmpfs", "/",
        *(word for name in inside for word in ("--ro-bind", str(root / "root" / name), f"/{name}")),
        "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev",
        "--ro-bind", "/sys", "/sys", "--tmpfs", "/tmp", "--tmpfs", "/work", "--bind", str(planted), str(planted),
        "--chdir", "/work",
    ]  # fmt: skip
