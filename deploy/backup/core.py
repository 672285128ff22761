"""Which WAL segments a restore needs, which are missing, and which nobody needs any more. Pure.

A segment's name is a timeline, and a number in two halves of eight hexadecimal digits, the second of which counts the
segments of 4 GiB. A timeline begins with each restore; its history file says at which place it left the one before.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENTS_EACH = (1 << 32) // SEGMENT_BYTES
NAME = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"[0-9A-F]{8}\.history")
LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})")


def position(lsn: str) -> int:
    """Of `16/B374D848`. Raises ValueError."""
    if (found := LSN.fullmatch(lsn.upper())) is None:
        raise ValueError(lsn)
    return (int(found[1], 16) << 32) + int(found[2], 16)


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    number: int
    timeline: int

    @property
    def name(self) -> str:
        high, low = divmod(self.number, SEGMENTS_EACH)
        return f"{self.timeline:08X}{high:08X}{low:08X}"

    @classmethod
    def of_name(cls, name: str) -> "Segment":
        """Raises ValueError."""
        if not NAME.fullmatch(name):
            raise ValueError(name)
        return cls(int(name[8:16], 16) * SEGMENTS_EACH + int(name[16:], 16), int(name[:8], 16))

    @classmethod
    def at(cls, timeline: int, lsn: str) -> "Segment":
        return cls(position(lsn) // SEGMENT_BYTES, timeline)


@dataclass(frozen=True, slots=True)
class Chain:
    """The segments that follow each other from a base backup on."""

    segments: tuple[Segment, ...]
    missing: Segment | None  # The first that is not there although later ones are.


def chain(start: Segment, there: Iterable[Segment]) -> Chain:
    """By number: where two timelines have the same number, a restore knows from the histories which one it needs."""
    behind = sorted(one for one in there if one.number >= start.number and one.timeline >= start.timeline)
    numbers = {one.number for one in behind}
    expected = range(start.number, max(numbers, default=start.number - 1) + 1)
    gap = next((number for number in expected if number not in numbers), None)
    if gap is None:
        return Chain(tuple(behind), None)
    before = tuple(one for one in behind if one.number < gap)
    timeline = before[-1].timeline if before else start.timeline
    return Chain(before, Segment(gap, timeline))


def expendable(there: Collection[Segment], kept_starts: Collection[Segment]) -> list[Segment]:
    """Those that lie before the oldest backup that is kept. Without a backup, none."""
    oldest = min((one.number for one in kept_starts), default=0)
    return sorted(one for one in there if one.number < oldest)


def superfluous(ids: Iterable[str], keep: int) -> list[str]:
    """The backups beyond the newest `keep`, by ids that sort by time; the newest is never among them."""
    newest_first = sorted(ids, reverse=True)
    return newest_first[max(1, keep) :]
