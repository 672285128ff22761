"""The folder that backups lie in.

    key.json                        the key that seals all of it, itself sealed by the passphrase
    base/ID/base.tar.sealed         a base backup, complete in itself: it holds the WAL that it needs
    base/ID/secrets.tar.sealed      the secrets, if there are any
    base/ID/backup.json             what it is, and its digest; with a MAC, so that nobody else can write one
    wal/NAME.sealed                 finished segments and histories
    wal/NAME.partial.sealed         the segment that is being written, as it was some seconds ago
    wal/.followed                   changed whenever all WAL that there is has been sealed
    metrics/ollamesh_backup.prom    for node-exporter

A backup is built under another name and moved to its own when it is whole and verified: one without `backup.json` is
none. Everything is written aside, flushed to disk and renamed.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from deploy.backup.core import HISTORY, NAME, Segment
from deploy.backup.errors import BackupError, DamagedError
from deploy.backup.sealing import Key, make_key, open_key

FOLDER_MODE, FILE_MODE = 0o700, 0o600
SEALED, PARTIAL, UNFINISHED = ".sealed", ".partial", ".unfinished"
BASE, SECRETS = "base.tar", "secrets.tar"


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What `backup.json` says."""

    id: str  # The time it was begun; sorts by it.
    system_identifier: str  # Of the database cluster.
    server_version: str
    timeline: int
    start_lsn: str
    end_lsn: str
    started: float  # Seconds since the epoch.
    finished: float
    plain_bytes: int
    sealed_bytes: int
    base_sha256: str  # Of the sealed file, so that damage is found without the passphrase.
    secrets_sha256: str  # Empty: there were none.

    @property
    def start(self) -> Segment:
        return Segment.at(self.timeline, self.start_lsn)


class _Signed(msgspec.Struct, frozen=True):
    backup: Backup
    mac: str


class Repository:
    def __init__(self, folder: Path, key: Key) -> None:
        self.folder, self.key = folder, key
        self.wal, self.bases = folder / "wal", folder / "base"

    @classmethod
    def open(cls, folder: Path, passphrase: str, *, make: bool = False) -> "Repository":
        """Raises BackupError; `make`: a folder that is not there is made."""
        path = folder / "key.json"
        try:
            if make and not path.exists():
                if any(folder.glob("*/*/backup.json")) or any(folder.glob(f"wal/*{SEALED}")):
                    raise BackupError(
                        f"{path} is gone, and only it opens what lies there: bring it back, or take another folder"
                    )
                for each in (folder, folder / "wal", folder / "base", folder / "metrics"):
                    each.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                write(path, make_key().wrapped(passphrase), new=True)
            return cls(folder, open_key(path.read_bytes(), passphrase))
        except FileNotFoundError:
            raise BackupError(f"{folder} holds no backups") from None

    def change_passphrase(self, passphrase: str) -> None:
        write(self.folder / "key.json", self.key.wrapped(passphrase))

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """One process at a time does `what`. Raises BackupError if another one is at it."""
        descriptor = os.open(self.folder / f".{what}.lock", os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise BackupError(f"another process is at it already ({what})") from None
        finally:
            os.close(descriptor)

    def ids(self) -> list[str]:
        """Oldest first."""
        there = (path.parent.name for path in self.bases.glob("*/backup.json"))
        return sorted(name for name in there if not name.endswith(UNFINISHED))

    def backup(self, name: str) -> Backup:
        """Raises BackupError."""
        try:
            text = (self.bases / name / "backup.json").read_bytes()
            signed = msgspec.json.decode(text, type=_Signed)
        except FileNotFoundError:
            raise BackupError(f"there is no backup {name}") from None
        except msgspec.MsgspecError:
            raise DamagedError(f"backup.json of {name} is damaged") from None
        if signed.backup.id != name or not self.key.proves(msgspec.json.encode(signed.backup), signed.mac):
            raise DamagedError(f"backup.json of {name} was changed")
        return signed.backup

    def newest(self) -> Backup:
        """Raises BackupError if there is none."""
        if not (ids := self.ids()):
            raise BackupError(f"{self.folder} holds no finished backup")
        return self.backup(ids[-1])

    def file(self, backup: str, name: str) -> Path:
        return self.bases / backup / f"{name}{SEALED}"

    def publish(self, unfinished: Path, backup: Backup) -> None:
        """From now on it counts."""
        signed = _Signed(backup, self.key.mac(msgspec.json.encode(backup)))
        write(unfinished / "backup.json", msgspec.json.format(msgspec.json.encode(signed), indent=1))
        sync_folder(unfinished)
        unfinished.rename(self.bases / backup.id)
        sync_folder(self.bases)

    def remove(self, name: str) -> None:
        """It is none from the first moment on, and whoever makes the next one removes what a kill leaves of it."""
        shutil.rmtree((self.bases / name).rename(self.bases / f"{name}{UNFINISHED}"))

    def segments(self) -> dict[Segment, Path]:
        """All that are finished, and those of which only the beginning is there yet."""
        found: dict[Segment, Path] = {}
        for path in self.wal.glob(f"*{SEALED}"):
            name = path.name.removesuffix(SEALED)
            stem = name.removesuffix(PARTIAL)
            if NAME.fullmatch(stem) and (name == stem or Segment.of_name(stem) not in found):
                found[Segment.of_name(stem)] = path
        return found

    def histories(self) -> list[Path]:
        found = self.wal.glob(f"*.history{SEALED}")
        return sorted(path for path in found if HISTORY.fullmatch(path.name.removesuffix(SEALED)))

    def size_bytes(self) -> int:
        return _size_bytes(self.folder)

    def wal_bytes(self) -> int:
        return _size_bytes(self.wal)


def _size_bytes(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


@contextmanager
def writing(path: Path, *, new: bool = False) -> Iterator[BinaryIO]:
    """A file that is there when it is whole and on disk, or not at all. `new`: whoever was first keeps it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if new:
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(unfinished)
        else:
            unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write(path: Path, data: bytes, *, new: bool = False) -> None:
    with writing(path, new=new) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
