"""A shelf that nobody can change.

The models belong to the stack: they are installed once, by hash. So a pull of one of them succeeds as if it had just
been fetched, any other fails as an unknown name does, and the rest is refused.
"""

from collections.abc import AsyncGenerator, AsyncIterable

from deploy.local.runtime.api.http import find
from deploy.local.runtime.errors import ModelNotFoundError, PullError, ReadOnlyError
from deploy.local.runtime.ports import Backend, ModelCard
from deploy.local.runtime.wire.replies import ProgressReply
from deploy.local.runtime.wire.requests import CreateRequest


class FixedShelf:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def pull(self, name: str) -> AsyncGenerator[ProgressReply, None]:
        yield ProgressReply("pulling manifest")
        try:
            card = find(self._backend, name)
        except ModelNotFoundError as error:
            raise PullError from error
        layer = f"pulling {card.digest[:12]}"
        yield ProgressReply(layer, f"sha256:{card.digest}", card.size_bytes, card.size_bytes)
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            yield ProgressReply(status)

    def create(self, request: CreateRequest) -> AsyncGenerator[ProgressReply, None]:  # noqa: ARG002
        raise ReadOnlyError("create")

    def delete(self, card: ModelCard) -> None:  # noqa: ARG002
        raise ReadOnlyError("delete")

    def copy(self, card: ModelCard, full_name: str) -> None:  # noqa: ARG002
        raise ReadOnlyError("copy")

    def has_blob(self, digest: str) -> bool:
        """Say whether it is the file of a model."""
        return any(f"sha256:{card.digest}" == digest for card in self._backend.installed())

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes]) -> None:  # noqa: ARG002
        raise ReadOnlyError("take files for")
