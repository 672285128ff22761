"""Numbers that are lent, each to one at a time."""

import itertools
import os
from pathlib import Path

import pytest

from services.sandbox.adapters.ns.slots import COUNT, FIRST_UID, Slots


def test_no_two_have_the_same_and_there_is_an_end() -> None:
    slots = Slots(FIRST_UID)
    lent = {slots.borrow() for _ in range(COUNT)}
    assert lent == set(range(COUNT))
    with pytest.raises(OSError, match="no uid is left"):
        slots.borrow()
    slots.give_back(7)
    assert slots.borrow() == 7


def test_what_came_back_last_is_lent_last() -> None:
    slots = Slots(FIRST_UID)
    first = slots.borrow()
    slots.give_back(first)
    assert first not in {slots.borrow() for _ in range(COUNT - 1)}


def test_blocks_do_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often engines have been started again since the first one that still runs."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    map_all(tmp_path, "0 0 4294967295")
    held = [found for _ in range(500) if (found := Slots.find(tmp_path))]
    firsts = sorted(each.first_uid for each in held)
    assert len(firsts) == 500
    assert all(after - before >= COUNT for before, after in itertools.pairwise(firsts))
    assert firsts[0] >= FIRST_UID
    assert firsts[-1] + COUNT <= 0x7FFE_0000  # Where systemd's next range begins.


@pytest.mark.parametrize(("euid", "mapped"), [(65534, "0 0 4294967295"), (0, "0 100000 65536"), (0, "")])
def test_who_has_none_to_hand_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, euid: int, mapped: str
) -> None:
    """An ordinary user, and root of a container with few uids."""
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    map_all(tmp_path, mapped)
    assert Slots.find(tmp_path) is None


def map_all(proc: Path, row: str) -> None:
    for name in ("uid_map", "gid_map"):
        (proc / name).write_text(f"{row}\n" if row else "")
