"""Host uids for jails: each jail has one to itself, where that may be arranged.

Inside, every program is the same user. Outside, programs of one uid share what the kernel counts by user, such as
the memory of pipes, so that one could use up what another needs. Giving a uid to each takes a user namespace that
holds them all, which only root can make (see `launcher`).

The uids come from a range that systemd and distributions leave unused, in a block that no other of this process has,
and that is drawn by lot, so that two services on one host seldom meet: in containers all have the same process's id. In the outer jail's user namespace the same block begins at INNER_FIRST.
"""

import os
import secrets
from collections import deque
from pathlib import Path
from threading import Lock
from typing import ClassVar, Self
from weakref import WeakSet

FIRST_UID = 0x7000_0000
COUNT = 2048  # More than there can be jails of one engine, profile and process.
_BLOCKS_COUNT = 1 << 16  # 2^27 uids in all.


class Slots:
    """Lends each number below COUNT to one jail at a time, the one that has been back for longest first.

    Any thread may borrow and give back.
    """

    _all: ClassVar["WeakSet[Slots]"] = WeakSet()  # As long as one of them is held, its block is its own.
    _finding = Lock()

    def __init__(self, first_uid: int) -> None:
        self.first_uid = first_uid
        self._free = deque(range(COUNT))

    @classmethod
    def find(cls, proc: Path = Path("/proc/self")) -> Self | None:
        """A block of its own; None if this process may not hand out uids, or has none to hand out."""
        if os.geteuid() != 0:
            return None
        with cls._finding:
            taken = {slots.first_uid for slots in cls._all}
            while (first_uid := FIRST_UID + secrets.randbelow(_BLOCKS_COUNT) * COUNT) in taken:
                pass
            if not all(_maps(proc / name, first_uid) for name in ("uid_map", "gid_map")):
                return None
            found = cls(first_uid)
            cls._all.add(found)
            return found

    def borrow(self) -> int:
        """Raises OSError if all are lent."""
        try:
            return self._free.popleft()
        except IndexError as error:
            raise OSError("no uid is left") from error

    def give_back(self, slot: int) -> None:
        """Once nothing of the jail that had it is left."""
        self._free.append(slot)


def _maps(file: Path, first_uid: int) -> bool:
    """Whether our own user namespace has the whole block."""
    rows = (tuple(map(int, line.split())) for line in file.read_text().splitlines())
    return any(inner <= first_uid and first_uid + COUNT <= inner + length for inner, _, length in rows)
