"""What is there on the host for a program to reach: sockets, files, a process. Nothing of it may ever be touched."""

import json
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.sandbox_attacks.lowered import lowered

GUEST = (Path(__file__).parent / "guest.py").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    folder: Path
    secret: str  # What is in its file.
    listeners: dict[str, socket.socket]
    canary: "subprocess.Popen[bytes]"

    def program(self, code: str, **more: object) -> str:
        """`code`, with what it needs before it."""
        known = {
            "tcp": self.listeners["tcp"].getsockname()[1],
            "engine": "ns",
            "udp": self.listeners["udp"].getsockname()[1],
            "abstract": self.listeners["abstract"].getsockname()[1:].decode(),
            "unix": str(self.folder / "socket"),
            "file": str(self.folder / "secret"),
            "folder": str(self.folder),
            "canary": self.canary.pid,
            "hostname": socket.gethostname(),
            **more,
        }
        return f"{GUEST.replace('@OUTSIDE@', json.dumps(known))}\n{code}\ntried()\n"

    def touched(self) -> list[str]:
        """What a program has got at since this was asked last."""
        found = [name for name, listener in self.listeners.items() if _reached(listener)]
        if self.canary.poll() is not None:
            found.append("canary")
        if {path.name for path in self.folder.iterdir()} != {"secret", "socket"}:
            found.append("folder")
        if (self.folder / "secret").read_text() != self.secret:
            found.append("secret")
        return found


def _reached(listener: socket.socket) -> bool:
    """Whether somebody has connected, or sent something."""
    try:
        if listener.type == socket.SOCK_DGRAM:
            listener.recv(1)
        else:
            listener.accept()[0].close()
    except BlockingIOError:
        return False
    _reached(listener)  # Whoever else did.
    return True


@contextmanager
def outside() -> Iterator[Outside]:
    with ExitStack() as opened:
        folder = Path(tempfile.mkdtemp(prefix="sandbox-outside-"))
        opened.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        secret = secrets.token_hex()
        (folder / "secret").write_text(secret)
        (folder / "secret").chmod(0o644)
        listeners = {
            "tcp": _bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": _bound(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "abstract": _bound(socket.AF_UNIX, socket.SOCK_STREAM, f"\0outside-{secret[:16]}"),
            "unix": _bound(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
        }
        for listener in listeners.values():
            opened.enter_context(listener)
        (folder / "socket").chmod(0o777)
        canary = subprocess.Popen(lowered(["/bin/sleep", "3600"]))  # Of the user that jails may be, too.
        opened.callback(canary.wait)
        opened.callback(canary.kill)
        yield Outside(folder=folder, secret=secret, listeners=listeners, canary=canary)


def _bound(family: int, kind: int, address: object) -> socket.socket:
    made = socket.socket(family, kind)
    made.bind(address)  # type: ignore[arg-type]
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    made.settimeout(0)
    return made
