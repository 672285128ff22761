"""How what lies in the backup folder is sealed: nobody without the passphrase reads it, and no change goes unseen.

`key.json` holds a random key, itself sealed by a key that scrypt makes of the passphrase (so the passphrase can change,
and scrypt is paid once). Each file has a key of its own, derived from that one, a salt and its name: files cannot be
exchanged for each other. It is a row of frames, each compressed and then sealed by AES-256-GCM, with its number and
whether it is the last: frames cannot be left out, moved, or cut off at the end.
"""

import base64
import hashlib
import hmac
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from deploy.backup.errors import DamagedError, WrongPassphraseError

MAGIC = b"ollamesh-sealed-1\n"
KEY_BYTES, SALT_BYTES, NONCE_BYTES = 32, 32, 12
FRAME_BYTES = 1024 * 1024
# Zlib and the seal make incompressible data a little longer.
SEALED_FRAME_BYTES_MAX = FRAME_BYTES + FRAME_BYTES // 1000 + 128
AS_IT_IS, COMPRESSED = b"0", b"1"  # How a frame begins.
SAMPLE_BYTES, WORTH = 16 * 1024, 0.9
COMPRESSION = 1  # Most of the gain for a tenth of the time.
SCRYPT = {"n": 1 << 16, "r": 8, "p": 1}  # 64 MiB and a fifth of a second for each guess.
LENGTH = struct.Struct(">I")
NUMBERED = struct.Struct(">Q?3x")


class Key:
    """Seals and opens the files of one backup folder."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def wrapped(self, passphrase: str) -> bytes:
        """What `key.json` says of it. The key stays the same: all that it sealed can be read with the new passphrase."""
        salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
        sealed = AESGCM(_stretched(passphrase, salt)).encrypt(nonce, self._secret, MAGIC)
        parts = {"salt": salt, "nonce": nonce, "key": sealed}
        return json.dumps({name: base64.b64encode(value).decode() for name, value in parts.items()}).encode()

    def derived(self, salt: bytes, purpose: str) -> bytes:
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=purpose.encode()).derive(
            self._secret
        )

    def mac(self, data: bytes) -> str:
        """What nobody can write under `data` without the key."""
        return hmac.new(self.derived(b"", "mac"), data, hashlib.sha256).hexdigest()

    def proves(self, data: bytes, mac: str) -> bool:
        return hmac.compare_digest(self.mac(data), mac)


def make_key() -> Key:
    return Key(os.urandom(KEY_BYTES))


def open_key(text: bytes, passphrase: str) -> Key:
    """Raises WrongPassphraseError or DamagedError."""
    try:
        parts = {name: base64.b64decode(value) for name, value in json.loads(text).items()}
        stretched = _stretched(passphrase, parts["salt"])
        return Key(AESGCM(stretched).decrypt(parts["nonce"], parts["key"], MAGIC))
    except InvalidTag:
        raise WrongPassphraseError from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError("key.json is damaged: without it nothing here can be read") from None


def _stretched(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, **SCRYPT).derive(passphrase.encode())


class Sealer:
    """Writes a sealed file: `write` as often as you like, then `close` once. Raises OSError."""

    def __init__(self, to: BinaryIO, key: Key, name: str) -> None:
        salt = os.urandom(SALT_BYTES)
        self._to, self._cipher = to, AESGCM(key.derived(salt, name))
        self._held, self._number = bytearray(), 0
        self.digest, self.plain_bytes, self.sealed_bytes = hashlib.sha256(), 0, 0
        self._put(MAGIC + salt)

    def write(self, data: bytes) -> None:
        self.plain_bytes += len(data)
        self._held += data
        while (
            len(self._held) > FRAME_BYTES
        ):  # The last frame is held back: only `close` knows that it is that.
            self._frame(bytes(self._held[:FRAME_BYTES]), last=False)
            del self._held[:FRAME_BYTES]

    def close(self) -> None:
        self._frame(bytes(self._held), last=True)
        self._held.clear()

    def _frame(self, data: bytes, *, last: bool) -> None:
        nonce = NUMBERED.pack(self._number, last)
        sealed = self._cipher.encrypt(nonce, _packed(data), None)
        self._put(LENGTH.pack(len(sealed)) + sealed)
        self._number += 1

    def _put(self, data: bytes) -> None:
        self._to.write(data)
        self.digest.update(data)
        self.sealed_bytes += len(data)


def opened(path: Path, key: Key, name: str) -> Iterator[bytes]:
    """What was sealed, frame by frame. Raises DamagedError, at the latest behind the last frame that is whole."""
    with path.open("rb") as file:
        header = file.read(len(MAGIC) + SALT_BYTES)
        if len(header) != len(MAGIC) + SALT_BYTES or not header.startswith(MAGIC):
            raise DamagedError(f"{path.name} is no sealed file")
        cipher, number = AESGCM(key.derived(header[len(MAGIC) :], name)), 0
        sealed = _next(file, path)
        while sealed:
            following = _next(file, path)
            try:
                packed = cipher.decrypt(NUMBERED.pack(number, not following), sealed, None)
            except InvalidTag:
                raise DamagedError(f"{path.name} is damaged or cut off") from None
            yield _unpacked(packed)
            sealed, number = following, number + 1
        if number == 0:
            raise DamagedError(f"{path.name} is cut off")


def _packed(data: bytes) -> bytes:
    """Compressed, unless a sample says that this would only take time: many rows are sealed already."""
    sample = data[:SAMPLE_BYTES]
    if len(zlib.compress(sample, COMPRESSION)) > WORTH * len(sample):
        return AS_IT_IS + data
    return COMPRESSED + zlib.compress(data, COMPRESSION)


def _unpacked(packed: bytes) -> bytes:
    return packed[1:] if packed[:1] == AS_IT_IS else zlib.decompress(packed[1:])


def _next(file: BinaryIO, path: Path) -> bytes:
    """The next frame, empty at the end."""
    if not (length := file.read(LENGTH.size)):
        return b""
    size = LENGTH.unpack(length)[0] if len(length) == LENGTH.size else SEALED_FRAME_BYTES_MAX + 1
    if size <= SEALED_FRAME_BYTES_MAX and len(sealed := file.read(size)) == size:
        return sealed
    raise DamagedError(f"{path.name} is damaged or cut off")


class Reader:
    """A sealed file as one that can be read from start to end: what tarfile wants of a stream."""

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames, self._held, self._at = frames, b"", 0

    def read(self, size: int = -1) -> bytes:
        found: list[bytes] = []
        wanted = size
        while wanted != 0:
            if self._at == len(self._held):
                self._held, self._at = next(self._frames, b""), 0
                if not self._held:
                    break
            piece = self._held[self._at :] if size < 0 else self._held[self._at : self._at + wanted]
            self._at += len(piece)
            wanted -= len(piece)
            found.append(piece)
        return b"".join(found)
