"""A jail that is not worth its name: shows that an attack would be seen if it succeeded.

Bubblewrap with namespaces alone: no system call filter, no Landlock, every capability in its own user namespace, a root
that can be written to, and what is planted in sight. It gains nothing on the host: it is an ordinary user there.
"""

import asyncio
from pathlib import Path

from tests.sandbox_attacks.case import Weak
from tests.sandbox_attacks.lowered import lowered

LIMIT_S = 20


async def run(code: str, root: Path, planted: Path, weak: Weak) -> str:
    """Run `code` in it. Return what it printed."""
    wrap = [str(root / "kit/bwrap"), *_walls(root, planted, weak), "/usr/bin/python3", "-I", "-B", "-c", code]
    env = {"LD_LIBRARY_PATH": str(root / "kit/lib")}
    process = await asyncio.create_subprocess_exec(
        *lowered(wrap), env=env, cwd="/", stdin=asyncio.subprocess.DEVNULL,
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
