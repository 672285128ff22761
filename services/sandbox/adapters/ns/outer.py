"""Starts the outer jail: bubblewrap, and in it the zygote.

**Never as root.** A user namespace made by root maps to the host's root, and /proc would let a program
in it change the host, without any capability. So root becomes JAIL_UID first (see `launcher`).
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.sandbox import guest
from services.sandbox.adapters.ns import inside, launcher, slots
from services.sandbox.adapters.ns.inside.jail import FIRST_SLOT_UID, UID
from services.sandbox.adapters.ns.inside.zygote import ENVIRONMENT
from services.sandbox.packed import packed
from services.sandbox.profiles import Profile

JAIL_UID = 65001  # Of the range that Debian and systemd leave to nobody.
PLACE = Path("/tmp")  # noqa: S108 -- where JAIL_UID finds the folder if it cannot walk to it.
_DEVICES = ("null", "zero", "full", "random", "urandom")
_STREAMS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_MAIN = f"from {inside.__name__}.zygote import main\nmain()\n"


def start(
    folder: Path, profile: Profile, first_uid: int | None
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start the zygote of `profile` on the root in `folder` (see services.sandbox.rootfs).

    `first_uid` begins the block of uids that jails get (see slots); None: they all have the zygote's.

    Call it from the main thread: the kernel ends the jail with the thread that started it. Returns the
    process and our end of the zygote's socket. Raises OSError.
    """
    folder = folder.resolve()
    place, launch, env = folder, [], {"LD_LIBRARY_PATH": str(folder / "kit/lib")}
    if os.geteuid() == 0:
        place = folder if _open_to_all(folder) else PLACE
        mapped = (
            "" if first_uid is None else f"{UID} {JAIL_UID} 1\n{FIRST_SLOT_UID} {first_uid} {slots.COUNT}\n"
        )
        who_and_where = (str(JAIL_UID), mapped, str(folder), str(place), str(place / "kit/lib"))
        # Libraries are looked for only after root has been given up: `place` may be anybody's until then.
        launch, env = [sys.executable, "-I", "-S", launcher.__file__, *who_and_where], {}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, _archive() as code:
        process = subprocess.Popen(  # noqa: S603 -- every argument is ours.
            [*launch, *_command(place, profile, code, theirs.fileno(), slotted=first_uid is not None)],
            env=env,  # Nothing of the service's own.
            pass_fds=(code, theirs.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # A Ctrl-C is for the service, which then ends its jails.
        )
        return process, ours.dup()


def _open_to_all(folder: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in folder.parents)


def _command(place: Path, profile: Profile, code: int, control: int, *, slotted: bool) -> list[str]:
    root = str(place / "root")
    described = json.dumps(
        {name: getattr(profile, name) for name in ("environment", "preimported", "command", "file_name")}
    )
    # The launcher brings the user namespace then, and the zygote may give its children uids of it.
    identity = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if slotted else ["--unshare-user"]
    return [
        str(place / "kit/bwrap"), *(f"--unshare-{kind}" for kind in ("ipc", "pid", "net", "uts", "cgroup-try")),
        "--uid", str(UID), "--gid", str(UID), "--hostname", "sandbox", "--die-with-parent", "--new-session",
        "--as-pid-1", "--cap-drop", "ALL", *identity,
        "--clearenv", *(word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)),
        "--ro-bind", root, "/", "--ro-bind", root, "/mnt", "--proc", "/proc", *_dev(),
        "--tmpfs", "/run", "--dir", "/run/empty", "--perms", "0444", "--file", str(code), "/run/jail.zip",
        "--remount-ro", "/run", "--chdir", "/",
        "/usr/bin/python3", "-I", "-B", "-X", "utf8", "/run/jail.zip", str(control), described,
    ]  # fmt: skip


def _dev() -> Iterator[str]:
    yield from ("--tmpfs", "/dev")
    for name in _DEVICES:
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    for name, target in _STREAMS.items():
        yield from ("--symlink", target, f"/dev/{name}")
    yield from ("--dir", "/dev/shm", "--remount-ro", "/dev")  # noqa: S108 -- a mount point.


_ARCHIVE = packed(_MAIN, inside, guest)  # Now, so that a later start has the code that this service has.


@contextmanager
def _archive() -> Iterator[int]:
    descriptor = os.memfd_create("jail.zip")
    try:
        os.write(descriptor, _ARCHIVE)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
