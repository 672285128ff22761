"""Starts the outer jail: bubblewrap, and in it the zygote.

**Never as root.** A user namespace made by root maps to the host's root, and /proc would let a program
in it change the host, without any capability. So root becomes JAIL_UID first, and nobody else can.

Everything that the jail is made of is passed as open descriptors, not as paths: JAIL_UID may not be
able to walk to them, as under a home folder that only its owner can enter.
"""

import io
import os
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from services.sandbox.adapters.ns.inside.jail import UID
from services.sandbox.adapters.ns.inside.zygote import ENVIRONMENT

JAIL_UID = 65001  # Of the range that Debian and systemd leave to nobody.
_DEVICES = ("null", "zero", "full", "random", "urandom")
_STREAMS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_INSIDE = Path(__file__).parent / "inside"
_MAIN = "from inside.zygote import main\nmain()\n"


def start(folder: Path) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start the zygote on the root in `folder` (see services.sandbox.rootfs).

    Call it from the main thread: the kernel ends the jail with the thread that started it. Returns the
    process and our end of the zygote's socket. Raises OSError.
    """
    uid = JAIL_UID if os.geteuid() == 0 else None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ExitStack() as opened:
        opened.enter_context(ours)
        names = ("root", "root", "kit/bwrap", "kit/lib")
        root, spare_root, bwrap, libraries = (opened.enter_context(_opened(folder / name)) for name in names)
        code = opened.enter_context(_archive())
        process = subprocess.Popen(  # noqa: S603 -- every argument is ours.
            _command(root, spare_root, code=code, control=theirs.fileno()),
            executable=f"/proc/self/fd/{bwrap}",
            env={"LD_LIBRARY_PATH": f"/proc/self/fd/{libraries}"},
            pass_fds=(root, spare_root, bwrap, libraries, code, theirs.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # A Ctrl-C is for the service, which then ends its jails.
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        return process, ours.dup()


def _command(root: int, spare_root: int, *, code: int, control: int) -> list[str]:
    return [
        "bwrap", "--unshare-all", "--unshare-user", "--uid", str(UID), "--gid", str(UID),
        "--hostname", "sandbox", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL",
        "--clearenv", *(word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)),
        "--ro-bind-fd", str(root), "/", "--ro-bind-fd", str(spare_root), "/mnt", "--proc", "/proc", *_dev(),
        "--tmpfs", "/run", "--dir", "/run/empty", "--perms", "0444", "--file", str(code), "/run/jail.zip",
        "--remount-ro", "/run", "--chdir", "/",
        "/usr/bin/python3", "-I", "-B", "-X", "utf8", "/run/jail.zip", str(control),
    ]  # fmt: skip


def _dev() -> Iterator[str]:
    yield from ("--tmpfs", "/dev")
    for name in _DEVICES:
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    for name, target in _STREAMS.items():
        yield from ("--symlink", target, f"/dev/{name}")
    yield from ("--dir", "/dev/shm", "--remount-ro", "/dev")  # noqa: S108 -- a mount point.


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _archive() -> Iterator[int]:
    """The package `inside` as a program of one file, in memory."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", _MAIN)
        for source in sorted(_INSIDE.glob("*.py")):
            archive.writestr(f"inside/{source.name}", source.read_bytes())
    descriptor = os.memfd_create("jail.zip")
    try:
        os.write(descriptor, packed.getvalue())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
