"""What the fake has on its disk, the registry that it pulls from, and the files it was given. Implements ports.Shelf.

A pull plays a script: a number says how many bytes have come, and the rest is as in script.py. What came stays, as
Ollama's partial files do: a pull that was given up goes on from there, and leaves out the numbers that it is past.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol, TypeAlias

from deploy.local.runtime.errors import ModelNotFoundError, PullError, WireError
from deploy.local.runtime.ports import ModelCard
from deploy.local.runtime.wire.names import full_name
from deploy.local.runtime.wire.replies import ProgressReply
from deploy.local.runtime.wire.requests import CreateRequest
from tests.fakes.fake_ollama.faults import disturb
from tests.fakes.fake_ollama.models import fake_model
from tests.fakes.fake_ollama.script import Disturbance

PullStep: TypeAlias = int | Disturbance
BLOBS_BYTES_MAX = 64 * 2**20


class Installed(Protocol):
    """The models of a backend."""

    def installed(self) -> Sequence[ModelCard]: ...

    def install(self, card: ModelCard, like: ModelCard | None) -> None: ...

    def remove(self, card: ModelCard) -> None: ...


class FakeShelf:
    def __init__(self, backend: Installed) -> None:
        self._backend = backend
        self._offers: dict[str, tuple[ModelCard, Sequence[PullStep]]] = {}
        self._closing = asyncio.Event()
        self.completed: Counter[str] = Counter()  # Bytes that came, by model.
        self.blobs: dict[str, bytes] = {}

    def offer(self, card: ModelCard, *steps: PullStep) -> None:
        self._offers[card.name] = card, steps

    def close(self) -> None:
        self._closing.set()

    async def pull(self, name: str) -> AsyncGenerator[ProgressReply, None]:
        yield ProgressReply("pulling manifest")
        card, steps = self._found(name)
        digest = f"sha256:{card.digest}"
        for step in steps:
            if not isinstance(step, int):
                await disturb(step, self._closing)
            elif step >= self.completed[card.name]:
                self.completed[card.name] = step
                yield ProgressReply(f"pulling {card.digest[:12]}", digest, card.size_bytes, step)
        yield ProgressReply(f"pulling {card.digest[:12]}", digest, card.size_bytes, card.size_bytes)
        for status in ("verifying sha256 digest", "writing manifest"):
            yield ProgressReply(status)
        self._install(card)
        yield ProgressReply("success")

    async def create(self, request: CreateRequest) -> AsyncGenerator[ProgressReply, None]:
        if missing := [digest for digest in request.files.values() if digest not in self.blobs]:
            raise WireError(f"blob {missing[0]} does not exist")
        if request.source:
            made = self._card(request.source)
        elif request.files:
            made = fake_model("made", "completion")
        else:
            raise WireError("neither 'from' or 'files' was specified")
        yield ProgressReply(f"using existing layer sha256:{made.digest}")
        yield ProgressReply("writing manifest")
        self._install(replace(made, name=full_name(request.target), aliases=()), made)
        yield ProgressReply("success")

    def delete(self, card: ModelCard) -> None:
        self._backend.remove(card)

    def copy(self, card: ModelCard, full_name: str) -> None:
        self._install(replace(card, name=full_name, aliases=(), modified_at=datetime.now(UTC)), card)

    def has_blob(self, digest: str) -> bool:
        return digest in self.blobs

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes]) -> None:
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            assert len(data) <= BLOBS_BYTES_MAX
        found = f"sha256:{sha256(data).hexdigest()}"
        if found != digest:
            raise DigestMismatchError(digest, found)
        self.blobs[digest] = bytes(data)

    def _found(self, name: str) -> tuple[ModelCard, Sequence[PullStep]]:
        """What the registry has, or what is here already."""
        if (offer := self._offers.get(full_name(name))) is not None:
            return offer
        try:
            return self._card(name), ()
        except ModelNotFoundError as error:
            raise PullError from error

    def _card(self, name: str) -> ModelCard:
        for card in self._backend.installed():
            if card.answers_to(full_name(name)):
                return card
        raise ModelNotFoundError(name)

    def _install(self, card: ModelCard, like: ModelCard | None = None) -> None:
        for older in self._backend.installed():
            if older.name == card.name:
                return
        self._backend.install(card, like)


class DigestMismatchError(WireError):
    status = 400

    def __init__(self, wanted: str, found: str) -> None:
        super().__init__(f"digest mismatch, expected {wanted!r}, got {found!r}")
