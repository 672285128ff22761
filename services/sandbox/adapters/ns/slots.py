"""Host uids for jails: each jail has one to itself, where that may be arranged.

Inside, every program is the same user. Outside, programs of one uid share what the kernel counts by user, such as
the memory of pipes, so that one could use up what another needs. Giving a uid to each takes a user namespace that
holds them all, which only root can make (see `launcher`).

The uids come from a range that systemd and distributions leave unused, in a block by our process's id, so that two
services on one host seldom meet. In the outer jail's user namespace the same block begins at INNER_FIRST.
"""

import os
from collections import deque
from itertools import count
from pathlib import Path
from typing import Self

FIRST_UID = 0x7000_0000
COUNT = 2048  # More than there can be jails of one engine, profile and process.
_BLOCKS_COUNT, _PROCESSES_COUNT = 16, 4096  # 2^27 uids in all.
_serials = count()


class Slots:
    """Lends each number below COUNT to one jail at a time, the one that has been back for longest first.

    Any thread may borrow and give back.
    """

    def __init__(self, first_uid: int) -> None:
        self.first_uid = first_uid
        self._free = deque(range(COUNT))

    @classmethod
    def find(cls, proc: Path = Path("/proc/self")) -> Self | None:
        """A block of its own; None if this process may not hand out uids, or has none to hand out."""
        block = os.getpid() % _PROCESSES_COUNT * _BLOCKS_COUNT + next(_serials) % _BLOCKS_COUNT
        first_uid = FIRST_UID + block * COUNT
        mapped = all(_maps(proc / name, first_uid) for name in ("uid_map", "gid_map"))
        return cls(first_uid) if os.geteuid() == 0 and mapped else None

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
