"""Whether what lies in the folder can be restored: every byte of a backup and of the WAL behind it is read."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.backup import contents, core
from deploy.backup.core import SEGMENT_BYTES, Chain, Segment
from deploy.backup.errors import DamagedError
from deploy.backup.repository import BASE, PARTIAL, SEALED, SECRETS, Backup, Repository
from deploy.backup.sealing import Reader, opened

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    backup: Backup
    segment_count: int
    until: float  # Seconds since the epoch: the latest time that can be restored.


def verify(repository: Repository, backup: Backup) -> Verified:
    """Raises DamagedError with the first thing that is wrong."""
    check_digests(repository, backup)
    frames = opened(repository.file(backup.id, BASE), repository.key, f"{backup.id}/{BASE}")
    contents.check(Reader(frames))
    if backup.secrets_sha256:
        secrets = repository.file(backup.id, SECRETS)
        for _ in opened(secrets, repository.key, f"{backup.id}/{SECRETS}"):
            pass
    found, there = needed(repository, backup), repository.segments()
    for segment in found.segments:
        unsealed_wal(repository, there[segment])
    for path in repository.histories():
        unsealed_wal(repository, path)
    until = max((there[one].stat().st_mtime for one in found.segments), default=backup.finished)
    return Verified(backup=backup, segment_count=len(found.segments), until=max(until, backup.finished))


def needed(repository: Repository, backup: Backup) -> Chain:
    """The WAL behind a backup. Raises DamagedError if there is a gap in it."""
    there = repository.segments()
    # What the backup itself holds need not lie in the archive, which may have begun after it.
    inside = {Segment(number, backup.timeline) for number in range(
        backup.start.number, Segment.at(backup.timeline, backup.end_lsn).number + 1)}  # fmt: skip
    there = {one: path for one, path in there.items() if one not in _cut_off(there)}
    whole = core.chain(backup.start, {*there, *inside})
    if whole.missing is not None:
        raise DamagedError(
            f"WAL segment {whole.missing.name} is missing: {backup.id} can be restored up to there at most"
        )
    return Chain(tuple(one for one in whole.segments if one in there), None)


def _cut_off(there: Mapping[Segment, Path]) -> set[Segment]:
    """Beginnings of segments that nothing continues, although later ones are there: a replay would end in them."""
    last, counts = max((one.number for one in there), default=0), Counter(one.number for one in there)
    return {
        one
        for one, path in there.items()
        if path.name.endswith(f"{PARTIAL}{SEALED}") and one.number < last and counts[one.number] == 1
    }


def unsealed_wal(repository: Repository, path: Path) -> bytes:
    """A segment, of full length, or a history. Raises DamagedError."""
    name = path.name.removesuffix(SEALED)
    content = b"".join(opened(path, repository.key, f"wal/{name}"))
    if name.endswith(PARTIAL):
        return content.ljust(SEGMENT_BYTES, b"\0")
    return content


def check_digests(repository: Repository, backup: Backup) -> None:
    """Whether the files are those that were written. Raises DamagedError."""
    _check_digest(repository.file(backup.id, BASE), backup.base_sha256)
    if backup.secrets_sha256:
        _check_digest(repository.file(backup.id, SECRETS), backup.secrets_sha256)


def _check_digest(path: Path, expected: str) -> None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except FileNotFoundError:
        raise DamagedError(f"{path.parent.name}/{path.name} is missing") from None
    if digest.hexdigest() != expected:
        raise DamagedError(f"{path.parent.name}/{path.name} is not what was written")
