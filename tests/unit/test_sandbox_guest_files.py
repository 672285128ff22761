"""Files of a folder that nobody must trust: what names can do, and what a program can do to them meanwhile."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sandbox.core.paths import fault
from services.sandbox.guest.files import FAILED, NOT_FOUND, NOT_REGULAR, TOO_LARGE, FileError, Folder

LETTERS = st.characters(blacklist_characters="/\0", codec="utf-8")
PARTS = st.text(LETTERS, min_size=1, max_size=12).filter(lambda part: part not in {".", ".."})
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(lambda path: fault(path) is None)
CONTENTS = st.binary(max_size=100)


@contextmanager
def folder_of_its_own() -> Iterator[tuple[Folder, Path]]:
    """The folder "inside" and its path. Beside it is "outside", with a file."""
    above = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        (above / "inside").mkdir()
        (above / "outside").mkdir()
        (above / "outside/file").write_text("outside")
        yield Folder(str(above / "inside")), above / "inside"
    finally:
        for path in above.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(above)


@pytest.fixture
def made() -> Iterator[tuple[Folder, Path]]:
    with folder_of_its_own() as both:
        yield both


def put(folder: Folder, path: str, data: bytes) -> None:
    upload = folder.write(path, len(data))
    try:
        upload.write(data)
        upload.commit()
    finally:
        upload.close()


def get(folder: Folder, path: str) -> bytes:
    descriptor, entry = folder.read(path)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read()
    assert entry.size_bytes == len(data)
    return data


def kind_of(act: object, *arguments: object) -> str:
    """Of what `act` raises."""
    assert callable(act)
    with pytest.raises(FileError) as raised:
        act(*arguments)
    return raised.value.kind


def names(folder: Folder, path: str = "", after: str = "", count_max: int = 100) -> list[str]:
    return [entry.name for entry in folder.entries(path, after=after, count_max=count_max)]


@given(PATHS, CONTENTS, CONTENTS)
@settings(max_examples=100, deadline=None)
def test_any_path_names_one_file(path: str, first: bytes, second: bytes) -> None:
    with folder_of_its_own() as (folder, inside):
        for data in (first, second):
            put(folder, path, data)
            assert get(folder, path) == (inside / path).read_bytes() == data
        *parents, name = path.split("/")
        assert names(folder, "/".join(parents)) == [name]
        assert [each for each in inside.rglob("*") if each.is_file()] == [inside / path]
        folder.delete(path)
        assert kind_of(get, folder, path) == NOT_FOUND
        folder.delete(path.split("/", maxsplit=1)[0])
        assert list(inside.iterdir()) == []


KINDS = st.sampled_from(("file", "folder", "link to outside", "link inside", "pipe"))


@given(
    st.dictionaries(st.sampled_from("abc"), KINDS),
    st.lists(st.sampled_from(("a", "b", "c", "file")), min_size=1, max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_no_path_leads_outside_whatever_is_there(there: dict[str, str], parts: list[str]) -> None:
    with folder_of_its_own() as (folder, inside):
        for name, kind in there.items():
            place(inside / name, kind)
        path = "/".join(parts)
        for act in (get, names, Folder.delete):
            with suppress(FileError):
                act(folder, path)
        with suppress(FileError):
            put(folder, path, b"written")
            assert (inside / path).read_bytes() == b"written"
            assert (inside / path).resolve().is_relative_to(inside)
        outside = inside.with_name("outside")
        assert [each.name for each in outside.iterdir()] == ["file"]
        assert (outside / "file").read_text() == "outside"


def place(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("inside")
        case "folder":
            path.mkdir()
        case "link to outside":
            path.symlink_to("../outside")
        case "link inside":
            path.symlink_to("a")
        case _:
            os.mkfifo(path)


@pytest.mark.parametrize(
    "kind", ["link to outside", "link to the file", "link to nothing", "loop", "pipe", "socket"]
)
def test_what_is_neither_file_nor_folder_is_not_read_written_or_listed(
    made: tuple[Folder, Path], kind: str
) -> None:
    folder, inside = made
    path = inside / "odd"
    match kind:
        case "link to the file":
            path.symlink_to("../outside/file")
        case "link to nothing":
            path.symlink_to("nothing")
        case "loop":
            path.symlink_to("odd")
        case "socket":
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
        case _:
            place(path, kind)
    assert kind_of(folder.read, "odd") == NOT_REGULAR
    assert kind_of(folder.write, "odd", 1) == NOT_REGULAR
    assert kind_of(folder.write, "odd/file", 1) == NOT_REGULAR
    assert kind_of(folder.read, "odd/file") == NOT_REGULAR
    assert kind_of(names, folder, "odd") == NOT_REGULAR
    assert names(folder) == []
    folder.delete("odd")
    assert not path.is_symlink()
    assert not path.exists()


def test_a_device_is_not_read(made: tuple[Folder, Path]) -> None:
    assert kind_of(Folder("/dev").read, "null") == NOT_REGULAR


def test_a_file_that_is_leased_holds_nobody_up(made: tuple[Folder, Path]) -> None:
    """Whoever opens it would wait for the holder of the lease, for 45 seconds."""
    folder, inside = made
    (inside / "leased").write_text("x")
    (inside / "other").write_text("x")
    with (inside / "leased").open("r+") as held:
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            assert kind_of(folder.read, "leased") == NOT_REGULAR
            put(folder, "leased", b"new")
            folder.delete("leased")
        finally:
            signal.signal(signal.SIGIO, before)
    assert names(folder) == ["other"]


def test_a_file_is_there_as_a_whole_or_not_at_all(made: tuple[Folder, Path]) -> None:
    folder, inside = made
    put(folder, "file", b"before")
    upload = folder.write("file", 4)
    upload.write(b"12")
    assert names(folder) == ["file"]
    assert kind_of(upload.commit) == FAILED
    assert kind_of(upload.write, b"345") == FAILED
    upload.close()
    assert get(folder, "file") == b"before"
    below = folder.write("new/folder/file", 1)
    assert names(folder) == ["file"]
    below.close()
    assert list(inside.iterdir()) == [inside / "file"]


def test_what_takes_a_names_place_meanwhile_is_not_overwritten(made: tuple[Folder, Path]) -> None:
    folder, inside = made
    for path, left in (("a", "a"), ("b/file", "b")):
        upload = folder.write(path, 1)
        upload.write(b"1")
        (inside / left).symlink_to("../outside")
        assert kind_of(upload.commit) == NOT_REGULAR
        upload.close()
    assert sorted(each.name for each in inside.iterdir()) == ["a", "b"]
    assert sorted(each.name for each in inside.with_name("outside").iterdir()) == ["file"]


def test_more_than_there_is_room_for_is_refused_at_once_and_later(
    made: tuple[Folder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, inside = made
    assert kind_of(folder.write, "file", 1 << 60) == TOO_LARGE
    upload = folder.write("file", 10)

    def full(_descriptor: int, _data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        assert kind_of(upload.write, b"1") == TOO_LARGE
    upload.close()
    assert list(inside.iterdir()) == []


def test_lists_are_by_name_in_pages_and_leave_out_what_has_no_name(made: tuple[Folder, Path]) -> None:
    folder, inside = made
    every = sorted(["b", "a", "é", "Z", "a b", "~", "10", "9", "line\nbreak", "\U0001f600", "\ufffe"])
    for name in every:
        (inside / name).write_text("")
    (inside / os.fsdecode(b"\xff\xfe")).write_text("")
    (inside / "link").symlink_to("a")
    told: list[str] = []
    while page := names(folder, after=told[-1] if told else "", count_max=3):
        told += page
    assert told == every


def test_entries_tell_what_they_are(made: tuple[Folder, Path]) -> None:
    folder, inside = made
    put(folder, "folder/file", b"123")
    os.utime(inside / "folder/file", (7, 7.5))
    (below,) = folder.entries("", after="", count_max=9)
    (file,) = folder.entries("folder", after="", count_max=9)
    assert (below.name, below.size_bytes, below.is_folder) == ("folder", 0, True)
    assert (file.name, file.size_bytes, file.is_folder, file.modified_s) == ("file", 3, False, 7.5)


def test_a_folder_goes_however_deep_and_whatever_is_in_it(made: tuple[Folder, Path]) -> None:
    folder, inside = made
    opened = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    for depth in range(3000):
        name = "deep" if depth == 0 else "x" * 200
        os.mkdir(name, dir_fd=opened)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=opened)
        os.close(opened)
        opened = below
    os.mkfifo("pipe", dir_fd=opened)
    os.symlink("/", "root", dir_fd=opened)
    os.close(opened)
    shut = inside / "deep/shut/in"
    shut.mkdir(parents=True)
    (shut / "file").write_text("")
    for path in (shut, shut.parent):
        path.chmod(0)
    folder.delete("deep")
    assert list(inside.iterdir()) == []
    folder.delete("deep")
    folder.delete("deep/er")


def test_who_adds_to_a_folder_faster_than_it_is_removed_keeps_nobody_busy(
    made: tuple[Folder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, inside = made
    (inside / "folder").mkdir()
    monkeypatch.setattr(os, "rmdir", lambda _name, *, dir_fd: None)  # As if it never were empty.
    assert kind_of(folder.delete, "folder") == NOT_REGULAR


@pytest.mark.parametrize("path", ["missing", "missing/file", "x" * 255])
def test_what_is_not_there_is_not_found(made: tuple[Folder, Path], path: str) -> None:
    folder, _ = made
    assert kind_of(folder.read, path) == NOT_FOUND
    assert kind_of(names, folder, path) == NOT_FOUND
    folder.delete(path)
