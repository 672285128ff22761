"""Backups without a database: which WAL is needed, and what a sealed file shows of a change."""

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.backup import base
from deploy.backup.config import Config
from deploy.backup.core import Segment, chain, expendable, position, superfluous
from deploy.backup.errors import DamagedError, WrongPassphraseError
from deploy.backup.repository import Repository
from deploy.backup.sealing import FRAME_BYTES, Key, Reader, Sealer, make_key, open_key, opened

PASSPHRASE = "correct horse battery"
KEY = Key(b"k" * 32)
START = Segment.at(1, "0/3000028")


def after(*numbers: int, timeline: int = 1) -> set[Segment]:
    return {Segment(START.number + number, timeline) for number in numbers}


def sealed(path: Path, content: bytes, *, key: Key = KEY, name: str = "name") -> Path:
    with path.open("wb") as file:
        sealer = Sealer(file, key, name)
        sealer.write(content)
        sealer.close()
    return path


def read(path: Path, *, key: Key = KEY, name: str = "name") -> bytes:
    return b"".join(opened(path, key, name))


@pytest.mark.parametrize("lsn", ["0/3000028", "16/B374D848", "FF/FFFFFFFF"])
def test_segments_are_named_as_postgresql_names_them(lsn: str) -> None:
    found = Segment.at(5, lsn)
    high, low = lsn.split("/")
    assert found.name == f"00000005{int(high, 16):08X}{int(low, 16) >> 24:08X}"
    assert Segment.of_name(found.name) == found


@pytest.mark.parametrize("lsn", ["", "0", "0/", "g/1", "0/123456789", "0/1; DROP"])
def test_what_is_no_place_in_the_log(lsn: str) -> None:
    with pytest.raises(ValueError, match=lsn or "^$"):
        position(lsn)


def test_a_chain_ends_at_the_first_gap() -> None:
    assert chain(START, after(0, 1, 2)).missing is None
    broken = chain(START, after(0, 1, 3, 4))
    assert (set(broken.segments), {broken.missing}) == (after(0, 1), after(2))
    assert {chain(START, after(1, 2)).missing} == after(0)
    assert chain(START, after(-2, -1)) == chain(START, ())


def test_time_lines_that_follow_a_restore_are_one_chain() -> None:
    found = chain(START, after(0, 1) | after(1, 2, timeline=2))
    assert found.missing is None
    assert set(found.segments) == after(0, 1) | after(1, 2, timeline=2)


def test_wal_goes_only_with_the_backup_that_needs_it() -> None:
    there = after(-2, -1, 0, 1)
    assert set(expendable(there, [START])) == after(-2, -1)
    assert expendable(there, []) == []
    assert superfluous(["3", "1", "2"], keep=2) == ["1"]
    assert superfluous(["1"], keep=0) == []


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES])
def test_what_is_sealed_comes_back(size: int, tmp_path: Path) -> None:
    content = random.Random(size).randbytes(size)
    path = sealed(tmp_path / "file", content)
    assert read(path) == content
    whole = Reader(opened(path, KEY, "name"))
    pieces = iter(lambda: whole.read(10_000), b"")
    assert b"".join(pieces) == content
    assert size < 64 or content[:64] not in path.read_bytes()


def frames(data: bytes) -> list[bytes]:
    """The header, then each frame with its length."""
    stream, found = io.BytesIO(data), []
    found.append(stream.read(len(b"ollamesh-sealed-1\n") + 32))
    while length := stream.read(4):
        found.append(length + stream.read(int.from_bytes(length, "big")))
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[:-1],  # The end is cut off, at a frame.
        lambda parts: [*parts[:-1], parts[-1][:-1]],  # And within one.
        lambda parts: [parts[0], parts[2], parts[1], parts[3]],
        lambda parts: [parts[0], *parts[2:]],
        lambda parts: [*parts, parts[-1]],
        lambda parts: parts[:1],
        lambda _: [b""],
        lambda _: [b"no such thing, but long enough to be one: header and salt"],
    ],
)
def test_frames_that_are_missing_or_moved_are_seen(
    change: Callable[[list[bytes]], list[bytes]], tmp_path: Path
) -> None:
    path = sealed(tmp_path / "file", random.Random(1).randbytes(2 * FRAME_BYTES + 5))
    path.write_bytes(b"".join(change(frames(path.read_bytes()))))
    with pytest.raises(DamagedError):
        read(path)


@pytest.mark.parametrize("seed", range(50))
def test_a_bit_that_changed_is_seen(seed: int, tmp_path: Path) -> None:
    path = sealed(tmp_path / "file", b"content" * 100)
    data, chance = bytearray(path.read_bytes()), random.Random(seed)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    with pytest.raises(DamagedError):
        read(path)


def test_files_cannot_take_each_other_s_place(tmp_path: Path) -> None:
    path = sealed(tmp_path / "file", b"content", name="wal/1")
    for key, name in ((KEY, "wal/2"), (Key(b"o" * 32), "wal/1")):
        with pytest.raises(DamagedError):
            read(path, key=key, name=name)


def test_only_the_passphrase_opens_the_key() -> None:
    text = (key := make_key()).wrapped(PASSPHRASE)
    assert open_key(text, PASSPHRASE).mac(b"x") == key.mac(b"x")
    with pytest.raises(WrongPassphraseError):
        open_key(text, PASSPHRASE + "s")
    for damaged in (b"", b"{}", b"[]", text[:-9], text.replace(b'"nonce": "', b'"nonce": "A')):
        with pytest.raises((DamagedError, WrongPassphraseError)):
            open_key(damaged, PASSPHRASE)
    assert PASSPHRASE.encode() not in text


def test_of_secrets_that_are_links_what_they_lead_to_is_sealed(tmp_path: Path) -> None:
    """Kubernetes mounts a Secret as links into a folder that it replaces at each change."""
    mounted, today = tmp_path / "secrets", tmp_path / "secrets" / "..2026_11_30"
    today.mkdir(parents=True)
    (today / "encryption_key").write_text("the key")
    (mounted / "..data").symlink_to(today.name)
    (mounted / "encryption_key").symlink_to("..data/encryption_key")
    repository = Repository.open(tmp_path / "backups", PASSPHRASE, make=True)
    config = Config(folder=repository.folder, passphrase=PASSPHRASE, secrets=mounted)
    base._seal_secrets(config, repository, tmp_path, "one")
    frames = opened(tmp_path / "secrets.tar.sealed", repository.key, "one/secrets.tar")
    with tarfile.open(fileobj=io.BytesIO(b"".join(frames))) as tar:
        (member,) = tar.getmembers()
        content = tar.extractfile(member)
        assert content is not None
        assert (member.name, content.read()) == ("encryption_key", b"the key")
