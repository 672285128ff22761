"""Whether a base backup holds what the server put into it: each file's digest against PostgreSQL's own manifest.

The server writes the manifest behind the files, so the archive is read once, from start to end, and nothing is unpacked
for it. PostgreSQL's own `pg_verifybackup` judges again what a restore has unpacked.
"""

import hashlib
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from deploy.backup.errors import DamagedError
from deploy.backup.sealing import Reader

MANIFEST = "backup_manifest"
BLOCK_BYTES = 1 << 20
# What the server does not list: the WAL has checksums of its own, and the manifest cannot hold its own digest.
UNLISTED = ("pg_wal/", MANIFEST)


class _File(msgspec.Struct, frozen=True):
    path: str = msgspec.field(name="Path", default="")
    size: int = msgspec.field(name="Size", default=0)
    algorithm: str = msgspec.field(name="Checksum-Algorithm", default="")
    checksum: str = msgspec.field(name="Checksum", default="")
    encoded_path: str = msgspec.field(name="Encoded-Path", default="")


class _Range(msgspec.Struct, frozen=True):
    timeline: int = msgspec.field(name="Timeline")
    start_lsn: str = msgspec.field(name="Start-LSN")
    end_lsn: str = msgspec.field(name="End-LSN")


class Manifest(msgspec.Struct, frozen=True):
    files: list[_File] = msgspec.field(name="Files")
    ranges: list[_Range] = msgspec.field(name="WAL-Ranges")
    system_identifier: int = msgspec.field(name="System-Identifier")


@dataclass(slots=True)
class _Found:
    digests: dict[str, tuple[int, str]] = field(default_factory=dict)
    manifest: bytes = b""


def check(archive: Reader) -> Manifest:
    """Raises DamagedError."""
    found = _Found()
    try:
        with tarfile.open(fileobj=archive, mode="r|") as tar:  # type: ignore[call-overload]  # It only reads.
            for member in tar:
                if member.isfile():
                    _take(found, tar, member)
    except tarfile.TarError:
        raise DamagedError("the base backup is no archive") from None
    try:
        manifest = msgspec.json.decode(found.manifest, type=Manifest)
    except msgspec.MsgspecError:
        raise DamagedError("the base backup has no manifest: it is not whole") from None
    _compare(manifest, found.digests)
    return manifest


def _take(found: _Found, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    content, digest, size = tar.extractfile(member), hashlib.sha256(), 0
    assert content is not None
    name = member.name.removeprefix("./")
    while block := content.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
        if name == MANIFEST:
            found.manifest += block
    found.digests[name] = (size, digest.hexdigest())


def _compare(manifest: Manifest, digests: Mapping[str, tuple[int, str]]) -> None:
    listed = {
        one.path or bytes.fromhex(one.encoded_path).decode(errors="replace"): one for one in manifest.files
    }
    for path, one in listed.items():
        if one.algorithm != "SHA256":
            raise DamagedError("the base backup's manifest has no SHA256 digests")
        if digests.get(path) != (one.size, one.checksum):
            raise DamagedError(f"the base backup's {path} is not what the server sent")
    for path in digests:
        if path not in listed and not path.startswith(UNLISTED):
            raise DamagedError(f"the base backup's {path} did not come from the server")
