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
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from services.sandbox.adapters.ns import inside
from services.sandbox.adapters.ns.inside.jail import UID
from services.sandbox.adapters.ns.inside.zygote import ENVIRONMENT

JAIL_UID = 65001  # Of the range that Debian and systemd leave to nobody.
_DEVICES = ("null", "zero", "full", "random", "urandom")
_STREAMS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
# Becomes another user, and then the program at a path. In a process of its own, because Popen's `user`
# makes it fork where it otherwise would vfork, and gRPC's threads do not survive a fork of the service.
_BECOME = """
import os, sys
uid, program = int(sys.argv[1]), sys.argv[2]
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.execv(program, sys.argv[3:])
"""
_MAIN = "from inside.zygote import main\nmain()\n"


def start(folder: Path) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start the zygote on the root in `folder` (see services.sandbox.rootfs).

    Call it from the main thread: the kernel ends the jail with the thread that started it. Returns the
    process and our end of the zygote's socket. Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ExitStack() as opened:
        opened.enter_context(ours)
        names = ("root", "root", "kit/bwrap", "kit/lib")
        root, spare_root, bwrap, libraries = (opened.enter_context(_opened(folder / name)) for name in names)
        code = opened.enter_context(_archive())
        program = f"/proc/self/fd/{bwrap}"
        become = [sys.executable, "-I", "-S", "-c", _BECOME, str(JAIL_UID), program]
        command = _command(root, spare_root, code=code, control=theirs.fileno())
        process = subprocess.Popen(  # noqa: S603 -- every argument is ours.
            [*become, *command] if os.geteuid() == 0 else command,
            executable=sys.executable if os.geteuid() == 0 else program,
            env={"LD_LIBRARY_PATH": f"/proc/self/fd/{libraries}"},  # Nothing of the service's own.
            pass_fds=(root, spare_root, bwrap, libraries, code, theirs.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # A Ctrl-C is for the service, which then ends its jails.
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


def _packed() -> bytes:
    """The package `inside` as a program of one file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", _MAIN)
        for source in sorted(Path(inside.__file__).parent.glob("*.py")):
            archive.writestr(f"inside/{source.name}", source.read_bytes())
    return packed.getvalue()


_ARCHIVE = _packed()  # Now, so that a later start has the code that this service has.


@contextmanager
def _archive() -> Iterator[int]:
    descriptor = os.memfd_create("jail.zip")
    try:
        os.write(descriptor, _ARCHIVE)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
