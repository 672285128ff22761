"""The encryption keys while the service runs: read again when their file changes, and then everything is sealed anew.

So a key is changed without a restart: put the new one before the old one in the file of ENCRYPTION_KEY_FILE, wait until
`ResealSecrets` says that nothing is left, take the old one out. A file that is wrong changes nothing and is complained about.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography.fernet import InvalidToken

from services.auth.adapters.seal import Seal
from services.common.config import fernet_keys
from services.common.errors import StoreFailure

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
RETRY_S = 2.0

Renew = Callable[[bytes], bytes | None]
# Of one store: seals anew what `Renew` has an answer for, and returns how many.
Reseal = Callable[[Renew], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resealed:
    key_id: str  # Of the key that everything is sealed with now, but for what is unreadable.
    resealed_count: int
    unreadable_count: int  # No key that is left opens it.


class Resealing:
    def __init__(self, seal: Seal, stores: Sequence[Reseal], file: Path | None) -> None:
        self._seal, self._stores, self._file = seal, stores, file
        self._turn = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._wanted.set()  # At the start: the keys may have changed since it ran last.

    async def run(self) -> None:
        """Follow the file, and seal anew whenever its keys have changed; until cancelled."""
        before = self._looked()
        while True:
            if (now := self._looked()) != before:
                before = now
                self._read()
            if self._wanted.is_set():
                await self._tried()
            await asyncio.sleep(LOOK_EVERY_S)

    async def reseal(self) -> Resealed:
        """Seal everything with the first key. Raises StoreFailure."""
        async with self._turn:  # Two at once would do the same.
            self._read()
            unreadable_count = 0

            def renew(sealed: bytes) -> bytes | None:
                nonlocal unreadable_count
                try:
                    return self._seal.renewed(sealed)
                except InvalidToken:
                    unreadable_count += 1
                    return None

            key_id = self._seal.key_id
            counts = [await store(renew) for store in self._stores]
            if unreadable_count:
                log.error(
                    "sealed_unreadable", count=unreadable_count, mend="add the old key to ENCRYPTION_KEY"
                )
            return Resealed(key_id=key_id, resealed_count=sum(counts), unreadable_count=unreadable_count)

    async def _tried(self) -> None:
        with suppress(StoreFailure):
            done = await self.reseal()
            self._wanted.clear()
            if done.resealed_count:
                log.info("resealed", key_id=done.key_id, count=done.resealed_count)

    def _looked(self) -> tuple[int, int, int] | None:
        """What changes when the file does."""
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None  # It is being replaced, or gone: the keys of before stay.
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> None:
        if self._file is None:
            return
        if (keys := _keys_in(self._file)) is None:
            log.error("encryption_keys_wrong", mend="put valid keys into the file of ENCRYPTION_KEY_FILE")
            return
        self._seal.replace(keys)
        self._wanted.set()


def _keys_in(file: Path) -> tuple[str, ...] | None:
    try:
        return fernet_keys(file.read_text())
    except (OSError, ValueError):
        return None
