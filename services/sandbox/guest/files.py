"""The files of one folder, for who must not trust what is in it nor what its program does meanwhile.

Names are resolved part by part from the folder on, and no link is followed: a path that would need one is refused. Only
regular files are read or replaced. Nothing here waits for anybody: what would (a pipe, a file that is leased) is refused.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NOT_FOUND, NOT_REGULAR, TOO_LARGE, FAILED = "not_found", "not_regular", "too_large", "failed"

_KINDS = {
    **dict.fromkeys((errno.ENOENT, errno.ENAMETOOLONG), NOT_FOUND),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMLINK), TOO_LARGE),
    # The last is of a file that its program has leased, the two before of one that it has shut itself out of.
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV), NOT_REGULAR),
    **dict.fromkeys((errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EAGAIN), NOT_REGULAR),
}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NAMELESS = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_STEPS_MAX = 20_000  # Of removing a folder; several times the files that there can be.


class FileError(Exception):
    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    size_bytes: int
    is_folder: bool
    modified_s: float


class Folder:
    """Raises FileError, whatever goes wrong."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, path: str) -> tuple[int, Entry]:
        """Open a file; return the descriptor and what it is now."""
        *parents, name = path.split("/")
        with _explained(), self._opened(parents) as folder:
            descriptor = os.open(name, _READ, dir_fd=folder)
            try:
                return descriptor, _entry(name, os.fstat(descriptor), only_regular=True)
            except BaseException:
                os.close(descriptor)
                raise

    def entries(self, path: str, *, after: str, count_max: int) -> list[Entry]:
        """Files and folders of a folder, by name, from behind the name `after` on.

        What has no name in UTF-8 cannot be asked for, and what is neither file nor folder cannot be had: they are
        left out.
        """
        with _explained(), self._opened(path.split("/") if path else []) as folder:
            names = sorted(name for name in _names(folder) if name > after and _is_text(name))
            found: list[Entry] = []
            for name in names:
                if len(found) == count_max:
                    break
                with suppress(FileNotFoundError, FileError):
                    found.append(_entry(name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
            return found

    def delete(self, path: str) -> None:
        """Remove a file, a link, or a folder with what is in it, if it is there."""
        *parents, name = path.split("/")
        try:
            with _explained(), self._opened(parents) as folder:
                try:
                    os.unlink(name, dir_fd=folder)
                except IsADirectoryError:
                    _remove(folder, name)
        except FileError as error:
            if error.kind != NOT_FOUND:
                raise

    def write(self, path: str, size_bytes: int) -> "Upload":
        """A file to be, of which nobody sees anything before it is committed."""
        with _explained():
            self._check(path)
            room = os.statvfs(self._path)
            if size_bytes > room.f_bavail * room.f_frsize:
                raise FileError(TOO_LARGE)
            return Upload(self, path, size_bytes, os.open(self._path, _NAMELESS, 0o600))

    def place(self, path: str, descriptor: int) -> Entry:
        """Give the nameless file `descriptor` its name, and make the folders that it needs."""
        *parents, name = path.split("/")
        with _explained(), self._opened(parents, make=True) as folder:
            _check_replaceable(folder, name)
            # A link can replace nothing, but a file with a name can.
            passing = _passing_name()
            os.link(f"/proc/self/fd/{descriptor}", passing, dst_dir_fd=folder, follow_symlinks=True)
            try:
                os.rename(passing, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                os.unlink(passing, dir_fd=folder)
                raise
            return _entry(name, os.fstat(descriptor))

    def _check(self, path: str) -> None:
        """Refuse what could not be placed, before it is sent."""
        *parents, name = path.split("/")
        with suppress(FileNotFoundError), self._opened(parents) as folder:
            _check_replaceable(folder, name)

    @contextmanager
    def _opened(self, parts: list[str], *, make: bool = False) -> Iterator[int]:
        folder = os.open(self._path, _FOLDER)
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=folder)
                below = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


class Upload:
    def __init__(self, folder: Folder, path: str, size_bytes: int, descriptor: int) -> None:
        self._folder, self._path = folder, path
        self._missing_bytes = size_bytes
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        self._missing_bytes -= len(data)
        if self._missing_bytes < 0:
            raise FileError(FAILED)
        with _explained():
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def commit(self) -> Entry:
        """It is there as a whole, or an error is raised and it is not there."""
        if self._missing_bytes:
            raise FileError(FAILED)
        return self._folder.place(self._path, self._descriptor)

    def close(self) -> None:
        """Without `commit` before, nothing is left of it."""
        os.close(self._descriptor)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(_KINDS.get(error.errno or 0, FAILED)) from error


def _entry(name: str, status: os.stat_result, *, only_regular: bool = False) -> Entry:
    is_folder = stat.S_ISDIR(status.st_mode) and not only_regular
    if not is_folder and not stat.S_ISREG(status.st_mode):
        raise FileError(NOT_REGULAR)
    return Entry(name, 0 if is_folder else status.st_size, is_folder, status.st_mtime)


def _check_replaceable(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        _entry(name, os.stat(name, dir_fd=folder, follow_symlinks=False), only_regular=True)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _is_text(name: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in name)  # As Python says bytes that are none.


def _passing_name() -> str:
    return f".{secrets.token_hex(12)}.passing"


def _remove(folder: int, name: str) -> None:
    """Remove the folder `name`. However deep it is, two descriptors and one step for each file are enough:
    what is in a folder in it is brought up beside it, and is next.
    """
    passing = _passing_name()
    os.rename(name, passing, src_dir_fd=folder, dst_dir_fd=folder)
    doomed = [passing]
    for _ in range(_STEPS_MAX):
        if not doomed:
            return
        with suppress(FileNotFoundError):
            doomed += _emptied(folder, doomed[-1])
            continue
        doomed.pop()
    raise OSError(errno.ENOTEMPTY, "its program adds to it")


def _emptied(folder: int, name: str) -> list[str]:
    """Remove the files of a folder, and it itself if nothing else was in it. Return where its folders are now."""
    held = os.open(name, _FOLDER | os.O_PATH, dir_fd=folder)
    try:
        Path(f"/proc/self/fd/{held}").chmod(0o700)  # Its program may have shut everybody out.
        opened = os.open(".", _FOLDER, dir_fd=held)
    finally:
        os.close(held)
    try:
        brought: list[str] = []
        for entry in _names(opened):
            try:
                os.unlink(entry, dir_fd=opened)
            except IsADirectoryError:
                passing = _passing_name()
                os.rename(entry, passing, src_dir_fd=opened, dst_dir_fd=folder)
                brought.append(passing)
    finally:
        os.close(opened)
    with suppress(OSError):
        os.rmdir(name, dir_fd=folder)
    return brought
