"""The chain: how an event is bound to all before it, and what its reader checks.

The hash of an event is SHA-256 over a word that says what this is, the hash of the event before, and the event as canonical
JSON; whoever changes, removes, adds or moves one has to recompute the hash of every later one. That anybody can, so a key
that is not in the database signs the last hash each minute: those heads are a chain of their own. What is behind the last
head is bound by its place only.

docs/audit.md tells it to those who check an export with tools of their own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

DOMAIN = b"ollamesh-audit-1\n"
GENESIS = bytes(32)  # The hash before the first event's.
HEAD_EVERY_S = 60.0
HEAD_LATE_S = 300.0  # Events older than that must be behind some head: signing them was missed, or undone.


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event in its place."""

    sequence: int
    event_id: str
    event_time_us: int
    record_time_us: int
    service: str
    action: str
    outcome: str
    user_id: str
    organization_id: str
    object: str
    reason: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chain is at: the last event and its hash."""

    sequence: int = 0
    hash: bytes = GENESIS


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is signed."""

    number: int  # From 1 without a gap.
    place: Place
    time_s: int
    previous: bytes  # SHA-256 of the head before, as it was signed.


@dataclass(frozen=True, slots=True)
class Problem:
    sequence: int
    what: str


def linked(previous: bytes, entry: Entry) -> bytes:
    """The hash of an entry that stands behind `previous`."""
    return hashlib.sha256(DOMAIN + previous + canonical(entry)).digest()


def canonical(entry: Entry) -> bytes:
    """The one way to write it: a JSON array without spaces, in UTF-8, its details as pairs in order."""
    values = (
        entry.sequence,
        entry.event_id,
        entry.event_time_us,
        entry.record_time_us,
        entry.service,
        entry.action,
        entry.outcome,
        entry.user_id,
        entry.organization_id,
        entry.object,
        entry.reason,
        sorted(entry.details.items()),
    )
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def head_payload(head: Head) -> bytes:
    values = {
        "number": head.number,
        "sequence": head.place.sequence,
        "hash": head.place.hash.hex(),
        "time": head.time_s,
        "previous": head.previous.hex(),
    }
    return json.dumps(values, separators=(",", ":")).encode()


def head_of(payload: bytes) -> Head | None:
    """None for what is none."""
    try:
        values = json.loads(payload)
        return Head(
            number=int(values["number"]),
            place=Place(int(values["sequence"]), bytes.fromhex(values["hash"])),
            time_s=int(values["time"]),
            previous=bytes.fromhex(values["previous"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def digest_of(signed: str) -> bytes:
    """Of a head, as the next one names it."""
    return hashlib.sha256(signed.encode()).digest()


class Check:
    """Reads a chain and its heads side by side, each in order, and remembers the first thing that is wrong."""

    def __init__(self, start: Place, *, head_number: int = 0, head_digest: bytes = GENESIS) -> None:
        """From an event that is known, and the last head at or before it."""
        self.place = start
        self.problem: Problem | None = None
        self.entry_count = self.head_count = 0
        self._head_number, self._head_digest = head_number, head_digest
        self._uncovered_since_us: int | None = None  # The first event behind the last head.
        self._due: Head | None = None

    def head(self, signed: str, read: Head | None) -> None:
        """The next head; `read` is what it says, if its signature is good. Before the entries that it covers."""
        if self.problem is not None:
            return
        if read is None:
            self._broken(self.place.sequence + 1, "a signed head does not bear our signature")
        elif read.number != self._head_number + 1 or read.previous != self._head_digest:
            self._broken(read.place.sequence, "a signed head is missing or out of its place")
        elif read.place.sequence <= self.place.sequence:
            self._broken(read.place.sequence, "a signed head is out of its place")
        else:
            self._due = read
            self._head_number, self._head_digest = read.number, digest_of(signed)

    @property
    def wants_head(self) -> bool:
        """Whether the next head is to be shown before the next entry."""
        return self._due is None and self.problem is None

    def entry(self, entry: Entry, hash_: bytes) -> None:
        """The next entry and the hash beside it."""
        if self.problem is not None:
            return
        expected = self.place.sequence + 1
        if entry.sequence != expected:
            self._broken(expected, "an event is missing")
        elif linked(self.place.hash, entry) != hash_:
            self._broken(expected, "an event is not what it was, or not where it was")
        else:
            self._passed(entry, hash_)

    def ended(self) -> None:
        """There are no more entries, and no more heads than were shown."""
        if self.problem is None and self._due is not None:
            self._broken(self.place.sequence + 1, "events are missing that a signed head covers")

    def signed_by(self, now_us: int) -> None:
        """At the end: by now, somebody must have signed for what is there."""
        since = self._uncovered_since_us
        if self.problem is None and since is not None and now_us - since > HEAD_LATE_S * 1_000_000:
            self._broken(self.place.sequence, "the last events are behind no signed head")

    def _passed(self, entry: Entry, hash_: bytes) -> None:
        self.place = Place(entry.sequence, hash_)
        self.entry_count += 1
        if self._uncovered_since_us is None:
            self._uncovered_since_us = entry.record_time_us
        due = self._due
        if due is None or due.place.sequence != entry.sequence:
            return
        if due.place.hash != hash_:
            self._broken(entry.sequence, "the chain is not the one that was signed")
            return
        self._due, self._uncovered_since_us = None, None
        self.head_count += 1

    def _broken(self, sequence: int, what: str) -> None:
        self.problem = Problem(sequence, what)
