"""The spool: what is appended survives and comes out once, in order; what is not, leaves nothing behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.auditing import spool as module
from services.common.auditing.spool import Spool, SpoolFull

BYTES_MAX = 1 << 20
ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 100)


def drained(spool: Spool, at_once: int = 7) -> Iterator[bytes]:
    while found := spool.oldest(at_once):
        yield from found
        spool.forget(len(found))


def payloads(count: int) -> list[bytes]:
    return [f"payload {number}".encode() for number in range(count)]


def test_first_in_first_out_across_segments(tmp_path: Path, small_segments: None) -> None:
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as spool:
        for at in range(0, 60, 3):
            spool.append(payloads(60)[at : at + 3])
        assert len(list(tmp_path.glob("x-0/*.spool"))) > 3
        assert list(drained(spool)) == payloads(60)
        assert (spool.is_empty, spool.bytes_held) == (True, 0)
        assert not list(tmp_path.glob("x-0/*.spool"))


def test_what_is_appended_while_it_is_read_comes_last(tmp_path: Path) -> None:
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as spool:
        spool.append([b"a", b"b"])
        assert spool.oldest(1) == [b"a"]
        spool.append([b"c"])
        spool.forget(1)
        assert list(drained(spool)) == [b"b", b"c"]


def test_another_process_finds_what_was_left(tmp_path: Path, small_segments: None) -> None:
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as spool:
        for each in payloads(20):
            spool.append([each])
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as spool:
        spool.append([b"new"])
        assert list(drained(spool)) == [*payloads(20), b"new"]


def test_processes_that_share_a_folder_have_their_own_and_heirs(tmp_path: Path) -> None:
    with (
        Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as one,
        Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as other,
    ):
        one.append([b"1"])
        other.append([b"2"])
        assert list(drained(one)) == [b"1"]
        one.append([b"1"])
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as heir:
        assert sorted(drained(heir)) == [b"1", b"2"]
    with Spool.opened(tmp_path, "y", bytes_max=BYTES_MAX) as stranger:
        assert stranger.is_empty


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    with Spool.opened(tmp_path / "deep" / "er", "x", bytes_max=BYTES_MAX) as spool:
        spool.append([b"secret"])
        for path in (tmp_path / "deep" / "er" / "x-0").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
        assert (tmp_path / "deep" / "er" / "x-0").stat().st_mode & 0o077 == 0


def test_its_bound_is_kept_and_refuses_all_or_nothing(tmp_path: Path) -> None:
    with Spool.opened(tmp_path, "x", bytes_max=100) as spool:
        spool.append([b"a" * 40])
        with pytest.raises(SpoolFull):
            spool.append([b"b", b"c" * 60])
        spool.append([b"d"])
        assert spool.bytes_held <= 100
        assert list(drained(spool)) == [b"a" * 40, b"d"]
        spool.append([b"e" * 80])


@given(st.integers(0, 10_000), st.lists(st.binary(max_size=60), min_size=1, max_size=8))
def test_a_torn_end_costs_what_was_never_promised(
    tmp_path_factory: pytest.TempPathFactory, cut: int, given_payloads: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    with Spool.opened(folder, "x", bytes_max=BYTES_MAX) as spool:
        spool.append(given_payloads)
        (segment,) = (folder / "x-0").glob("*.spool")
        whole = segment.read_bytes()
    kept = cut % (len(whole) + 1)
    segment.write_bytes(whole[:kept])
    with Spool.opened(folder, "x", bytes_max=BYTES_MAX) as spool:
        spool.append([b"after"])
        found = list(drained(spool))
    assert found[-1] == b"after"
    assert found[:-1] == given_payloads[: len(found) - 1], "in order, and nothing that was not appended"
    frames = [8 + len(each) for each in given_payloads]
    assert len(found) - 1 == sum(sum(frames[: n + 1]) <= kept for n in range(len(frames)))
    assert not list((folder / "x-0").glob("*.damaged"))


def test_damage_inside_is_kept_for_people_and_what_is_before_it_comes_out(tmp_path: Path) -> None:
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as spool:
        spool.append(payloads(9))
    (segment,) = (tmp_path / "x-0").glob("*.spool")
    data = bytearray(segment.read_bytes())
    data[8 * 4 + 9 * 4 + 9] ^= 1  # In the fifth.
    segment.write_bytes(data)
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as spool:
        assert list(drained(spool)) == payloads(4)
    assert len(list((tmp_path / "x-0").glob("*.damaged"))) == 1


FULL = """
import resource, signal, sys
from pathlib import Path
from services.common.auditing.spool import Spool, SpoolFull
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
refused = 0
with Spool.opened(Path(sys.argv[1]), "x", bytes_max=1 << 20) as spool:
    spool.append([b"a" * 100])
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    for size in (100, 200):
        try:
            spool.append([b"b" * size])
        except SpoolFull:
            refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    spool.append([b"d"])
print(refused)
"""


def test_a_disk_that_is_full_leaves_no_torn_record(tmp_path: Path) -> None:
    """In a process of its own, to whose files alone the limit applies."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "2"
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as spool:
        assert list(drained(spool)) == [b"a" * 100, b"d"]


KILLED = """
import os, signal, sys
from pathlib import Path
from services.common.auditing.spool import Spool
with Spool.opened(Path(sys.argv[1]), "x", bytes_max=1 << 20) as spool:
    for number in range(1000):
        spool.append([str(number).encode()])
        print(number, flush=True)
"""


def test_what_a_killed_process_was_told_is_kept_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(20)]
        process.kill()
        told += process.stdout.readlines()
    with Spool.opened(tmp_path, "x", bytes_max=BYTES_MAX) as spool:
        found = list(drained(spool))
    assert found[: len(told)] == [line.strip() for line in told if line.endswith(b"\n")]
