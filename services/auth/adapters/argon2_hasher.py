"""Password hashes by argon2id, at most two at a time and off the event loop.

Each takes 19 MiB and tens of milliseconds of a core, so their number is a fence against floods: two
work, a few wait, the rest are told to come again. Who leaves while waiting is not hashed for. What is hashed is the
password's normal form, so that it does not matter on which keyboard it was typed.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self, TypeVar

import argon2

from services.auth.core.passwords import normalised
from services.auth.errors import RateLimited

# OWASP's password storage cheat sheet, the choice with the least memory that it still recommends.
MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
AT_ONCE_MAX = 2
WAITING_MAX = 32

T = TypeVar("T")


class Argon2Hasher:
    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._argon2 = argon2.PasswordHasher(memory_cost=MEMORY_KIB, time_cost=PASSES, parallelism=LANES)
        self._dummy = self._argon2.hash(secrets.token_urlsafe())
        self._pending_count = 0

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        threads = ThreadPoolExecutor(AT_ONCE_MAX, thread_name_prefix="argon2")
        try:
            yield cls(threads)
        finally:
            threads.shutdown(cancel_futures=True)

    async def hash(self, password: str) -> str:
        return await self._off_loop(lambda: self._argon2.hash(normalised(password)))

    async def matches(self, password_hash: str | None, password: str) -> bool:
        fits = await self._off_loop(lambda: self._fits(password_hash or self._dummy, normalised(password)))
        return fits and password_hash is not None

    def outdated(self, password_hash: str) -> bool:
        return self._argon2.check_needs_rehash(password_hash)

    def _fits(self, password_hash: str, password: str) -> bool:
        try:
            return self._argon2.verify(password_hash, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _off_loop(self, work: Callable[[], T]) -> T:
        if self._pending_count >= AT_ONCE_MAX + WAITING_MAX:
            raise RateLimited
        self._pending_count += 1
        # Counted until the thread is done with it, which may be after the caller has left.
        job = self._threads.submit(work)
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        return await asyncio.wrap_future(job)

    def _done(self) -> None:
        self._pending_count -= 1
