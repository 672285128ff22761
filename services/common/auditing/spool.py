"""A queue on disk for what the store cannot take just now: bounded, durable when `append` returns, first in, first out.

A folder belongs to one process at a time, which holds its lock. In it are segments, each a row of frames: length,
checksum, payload. A process writes only to segments of its own, so that the torn end which a crash leaves is at the end
of a segment, where it is told from damage and left out: nobody was told that it was kept. A segment goes when all of it
was forgotten; after a crash what was forgotten of the first is read again, so readers count each payload once.

Everything here blocks: call it from a thread, one call at a time.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import structlog

log = structlog.get_logger(__name__)

SLOTS_MAX = 64  # Processes of one service that share a machine and a folder.
SEGMENT_BYTES_MAX = 1 << 20
PAYLOAD_BYTES_MAX = 1 << 20
FOLDER_MODE, FILE_MODE = 0o700, 0o600
_FRAME = struct.Struct(">II")
_SUFFIX = ".spool"


class SpoolFull(Exception):
    """Nothing of it was kept: the bound is reached, or the disk takes no more."""


class Spool:
    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._segments = sorted(folder.glob(f"*{_SUFFIX}"))
        self._sizes = {path: path.stat().st_size for path in self._segments}
        self._writing: tuple[Path, int] | None = None  # The last segment, and its descriptor.
        self._read: list[bytes] = []  # Of the first segment, what is not forgotten yet.
        self._is_read = False
        self._frames_forgotten = 0  # Of the first segment.

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, service: str, *, bytes_max: int) -> Iterator[Self]:
        """The spool of this process below `folder`, with what ended processes of the service left in theirs."""
        with ExitStack() as locks:
            mine = None
            for slot in range(SLOTS_MAX):
                path = folder / f"{service}-{slot}"
                if mine is not None and not path.is_dir():
                    continue
                path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                if mine is None and _locked(path, locks):
                    mine = path
                elif mine is not None:
                    _adopt(path, mine)
            if mine is None:
                raise SpoolFull
            spool = cls(mine, bytes_max=bytes_max)
            try:
                yield spool
            finally:
                spool.close()

    @property
    def is_empty(self) -> bool:
        return not self._segments

    @property
    def bytes_held(self) -> int:
        return sum(self._sizes.values())

    def append(self, payloads: Sequence[bytes]) -> None:
        """Keep all of them, on disk, or none. Raises SpoolFull."""
        frames = b"".join(_FRAME.pack(len(each), zlib.crc32(each)) + each for each in payloads)
        if self.bytes_held + len(frames) > self._bytes_max:
            raise SpoolFull
        try:
            path, descriptor = self._segment()
            size = self._sizes[path]
            try:
                _write(descriptor, frames)
                os.fsync(descriptor)
            except OSError:
                self._take_back(path, descriptor, size)
                raise
        except OSError as error:
            log.warning("audit_spool_failed", error=error.strerror)
            raise SpoolFull from error
        self._sizes[path] = size + len(frames)
        if self._segments[0] == path:
            self._is_read = False  # There is more in it than was read.
        if self._sizes[path] >= SEGMENT_BYTES_MAX:
            self._end_segment()

    def oldest(self, count_max: int) -> list[bytes]:
        """The oldest payloads, of one segment at most; empty only when there is nothing left."""
        while self._segments:
            if not self._is_read:
                self._read = self._frames(self._segments[0])[self._frames_forgotten :]
                self._is_read = True
            if self._read:
                return self._read[:count_max]
            self._drop_first()
        return []

    def forget(self, count: int) -> None:
        """The oldest `count`, which `oldest` has given, are kept elsewhere."""
        del self._read[:count]
        self._frames_forgotten += count
        if not self._read and self._is_read:
            self._drop_first()

    def close(self) -> None:
        self._end_segment()

    def _segment(self) -> tuple[Path, int]:
        """The one to write to."""
        if self._writing is None:
            number = int(self._segments[-1].name.removesuffix(_SUFFIX)) + 1 if self._segments else 1
            path = self._folder / f"{number:012}{_SUFFIX}"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, FILE_MODE)
            self._writing = (path, descriptor)
            self._segments.append(path)
            self._sizes[path] = 0
            _sync_folder(self._folder)
        return self._writing

    def _take_back(self, path: Path, descriptor: int, size: int) -> None:
        """Leave nothing of what could not be written whole."""
        try:
            os.ftruncate(descriptor, size)
        except OSError:
            log.exception("audit_spool_torn", segment=path.name)
            self._end_segment()  # What is behind the tear would not be read.

    def _end_segment(self) -> None:
        if self._writing is not None:
            path, descriptor = self._writing
            os.close(descriptor)
            self._writing = None
            if not self._sizes[path] and self._segments[-1] == path:
                self._segments.pop()
                del self._sizes[path]
                path.unlink(missing_ok=True)

    def _drop_first(self) -> None:
        path = self._segments[0]
        if self._writing is not None and self._writing[0] == path:
            os.close(self._writing[1])
            self._writing = None
        self._segments.pop(0)
        del self._sizes[path]
        path.unlink(missing_ok=True)
        self._read, self._is_read, self._frames_forgotten = [], False, 0

    def _frames(self, path: Path) -> list[bytes]:
        """The payloads of a segment, to its end or to the first that is not whole."""
        data, found, at = path.read_bytes(), [], 0
        while at + _FRAME.size <= len(data):
            length, checksum = _FRAME.unpack_from(data, at)
            payload = data[at + _FRAME.size : at + _FRAME.size + length]
            if length > PAYLOAD_BYTES_MAX or len(payload) < length or zlib.crc32(payload) != checksum:
                break
            found.append(payload)
            at += _FRAME.size + length
        if at < len(data):
            self._set_aside(path, data[at:])
        return found

    def _set_aside(self, path: Path, rest: bytes) -> None:
        """A crash tears one frame, which nobody was told was kept. Anything else is kept for people to look at."""
        length = _FRAME.unpack_from(rest)[0] if len(rest) >= _FRAME.size else 0
        is_ours = self._writing is not None and self._writing[0] == path
        if len(rest) <= _FRAME.size + min(length, PAYLOAD_BYTES_MAX) and not is_ours:
            log.info("audit_spool_torn_end", segment=path.name, byte_count=len(rest))
            return
        aside = path.with_suffix(".damaged")
        if not aside.exists():
            log.error("audit_spool_damaged", segment=path.name, byte_count=len(rest), kept_as=aside.name)
            with suppress(OSError):
                aside.write_bytes(rest)
                aside.chmod(FILE_MODE)


def _locked(path: Path, locks: ExitStack) -> bool:
    """Hold the folder's lock until `locks` are left; False if somebody else does."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    locks.callback(os.close, descriptor)
    return True


def _adopt(path: Path, mine: Path) -> None:
    """Take over what an ended process left."""
    with ExitStack() as lock:
        left = sorted(path.glob(f"*{_SUFFIX}"))
        if not left or not _locked(path, lock):
            return
        last = max((int(each.name.removesuffix(_SUFFIX)) for each in mine.glob(f"*{_SUFFIX}")), default=0)
        for number, segment in enumerate(left, last + 1):
            segment.rename(mine / f"{number:012}{_SUFFIX}")
        for folder in (mine, path):
            _sync_folder(folder)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
