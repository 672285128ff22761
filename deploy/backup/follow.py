"""Follows the write-ahead log: pg_receivewal streams it into a spool, and what is there is sealed into the folder.

A finished segment is sealed once and then leaves the spool; the one that is being written is sealed anew every
`seal_every_s`, so no more than that is lost with the machine. A replication slot keeps on the server what we have not
got yet (`max_slot_wal_keep_size` bounds it: who stays away for longer finds the slot lost, begins behind the gap, and
makes a new base backup). The spool is bounded, too: while it cannot be sealed, no more is fetched than it may hold.

Base backups are made meanwhile by a process of their own, so that the log does not wait for them.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import start_http_server

from deploy.backup import base, metrics, slots, verify
from deploy.backup.config import Config
from deploy.backup.core import HISTORY, NAME
from deploy.backup.errors import BackupError
from deploy.backup.metrics import FOLLOWED, Collected
from deploy.backup.repository import PARTIAL, SEALED, Repository, writing
from deploy.backup.sealing import Sealer
from services.common.launch import Guard

SLOT = "ollamesh_backup"
POLL_S = 0.1
AGAIN_AFTER_S = 60.0  # A base backup that failed.
COMPLAINT_BYTES_MAX = 4096
SPOOL_BYTES_MAX = 1 << 30  # It may be on the disk of the database itself.

Say = Callable[[str], None]


class Follower:
    """One cluster's log, until `stop`."""

    def __init__(self, config: Config, *, say: Say) -> None:
        if config.spool is None:
            raise BackupError("OLLAMESH_BACKUP_SPOOL is not set")
        self._config, self._spool, self._say = config, config.spool, say
        self._repository = Repository.open(config.folder, config.passphrase, make=True)
        self._receiver: subprocess.Popen[bytes] | None = None
        self._base: subprocess.Popen[bytes] | None = None
        self._base_after_s = 0.0
        self._sealed_partial = ("", 0)  # Its name and how long it was.
        self._collected = Collected(self._repository)
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Return when stopped. Raises BackupError if it cannot begin."""
        with self._repository.locked("follow"):
            base.check_system(self._repository, base.identifier_of(self._config.admin_dsn))
            self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            registry = metrics.registry(self._collected)
            server, thread = start_http_server(self._config.metrics_port, self._config.metrics_host, registry)
            try:
                while not self._stopped:
                    self._round()
                    with contextlib.suppress(OSError):
                        metrics.write(self._repository, registry)
                    self._rest()
            finally:
                _ended(self._receiver)
                _ended(self._base)
                self._seal_the_last()
                server.shutdown()
                server.server_close()
                thread.join()

    def _rest(self) -> None:
        end_s = time.monotonic() + self._config.seal_every_s
        while not self._stopped and time.monotonic() < end_s:
            time.sleep(min(POLL_S, self._config.seal_every_s))

    def _round(self) -> None:
        try:
            receives = self._receiving()
            self._seal()
            if receives:
                (self._repository.wal / FOLLOWED).touch()
        except (OSError, BackupError) as error:
            self._collected.failures["wal"] += 1
            self._say(f"backup: the log is not sealed: {error}")
        self._base_backup()

    def _receiving(self) -> bool:
        """Has it been at it all the time since the last round? If not, start it anew."""
        if self._spool_bytes() > SPOOL_BYTES_MAX:
            self._hold_back()
            return False
        if self._receiver is not None and self._receiver.poll() is None:
            return True
        if self._receiver is not None:
            self._collected.failures["wal"] += 1
            assert self._receiver.stderr is not None
            complaint = self._receiver.stderr.read(COMPLAINT_BYTES_MAX).decode(errors="replace")
            self._say(f"backup: {complaint.strip() or 'pg_receivewal ended'}")
            _ended(self._receiver)
            self._receiver = None
        if slots.drop_lost(self._config.admin_dsn, SLOT):
            self._begin_behind_gap()
        dsn, env = base.without_password(self._config.admin_dsn)
        common = (self._config.program("pg_receivewal"), "--dbname", dsn, "--no-password", "--slot", SLOT)
        made = subprocess.run(
            Guard().command((*common, "--create-slot", "--if-not-exists")),
            env=env, capture_output=True, check=False)  # fmt: skip
        if made.returncode != 0:
            raise BackupError(made.stderr.decode(errors="replace").strip() or "there is no replication slot")
        argv = (*common, "--directory", str(self._spool), "--no-loop", "--synchronous")
        self._receiver = subprocess.Popen(Guard().command(argv), env=env, stderr=subprocess.PIPE)
        return False

    def _seal_the_last(self) -> None:
        try:
            self._seal()
        except (OSError, BackupError) as error:  # It stays in the spool, for the next one.
            self._say(f"backup: what came last is not sealed: {error}")

    def _spool_bytes(self) -> int:
        size = 0
        for path in self._spool.iterdir():
            with contextlib.suppress(FileNotFoundError):  # It was finished, and so renamed, a moment ago.
                size += path.stat().st_size
        return size

    def _hold_back(self) -> None:
        """Fetch nothing until there is room: the server keeps it, as long as the slot may."""
        self._say(
            f"backup: the spool has {SPOOL_BYTES_MAX >> 20} MiB that are not sealed: no more is fetched"
        )
        _ended(self._receiver)
        self._receiver = None

    def _begin_behind_gap(self) -> None:
        """pg_receivewal would ask for what follows the last that is here, and the server has that no more."""
        self._say("backup: the server has let go of log that is not here: a new base backup follows")
        self._collected.failures["wal"] += 1
        self._seal()
        for path in self._spool.glob(f"*{PARTIAL}"):
            path.unlink()

    def _seal(self) -> None:
        """Raises OSError, and then has forgotten nothing: what is not sealed stays in the spool."""
        for path in sorted(self._spool.iterdir()):
            if NAME.fullmatch(path.name) or HISTORY.fullmatch(path.name):
                self._seal_file(path.name, path.read_bytes())
                (self._repository.wal / f"{path.name}{PARTIAL}{SEALED}").unlink(missing_ok=True)
                path.unlink()
        for path in self._spool.glob(f"*{PARTIAL}"):
            self._seal_partial(path)

    def _seal_partial(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # Finished a moment ago.
            content = path.read_bytes().rstrip(b"\0")  # The rest is zeros that pg_receivewal put there.
            if (path.name, len(content)) != self._sealed_partial:
                self._seal_file(path.name, content)
                self._sealed_partial = (path.name, len(content))

    def _seal_file(self, name: str, content: bytes) -> None:
        left_bytes = self._config.bytes_max - self._repository.size_bytes()
        if len(content) > left_bytes:
            raise BackupError(
                f"{self._config.folder} is full: it may hold {self._config.bytes_max >> 20} MiB"
            )
        with writing(self._repository.wal / f"{name}{SEALED}") as file:
            sealer = Sealer(file, self._repository.key, f"wal/{name}")
            sealer.write(content)
            sealer.close()

    def _base_backup(self) -> None:
        """Begin one if it is time, in a process of its own."""
        if self._base is not None:
            if (code := self._base.poll()) is None:
                return
            self._base = None
            if code != 0:
                self._collected.failures["base"] += 1
                self._base_after_s = time.monotonic() + AGAIN_AFTER_S
        if time.monotonic() >= self._base_after_s and self._is_due():
            argv = (sys.executable, "-m", "deploy.backup", "create")
            self._base = subprocess.Popen(Guard().command(argv))

    def _is_due(self) -> bool:
        """The last one is old, or the log has a gap since, or leads to another time line."""
        try:
            newest = self._repository.newest()
            verify.needed(self._repository, newest)
        except BackupError:
            return True
        timelines = {segment.timeline for segment in self._repository.segments()}
        return (
            time.time() - newest.finished >= self._config.base_every_s
            or max(timelines, default=newest.timeline) > newest.timeline
        )


def _ended(process: subprocess.Popen[bytes] | None) -> None:
    """Whether it has by itself or not."""
    if process is not None:
        process.terminate()
        process.communicate()
