"""What an Ollama server keeps on its disk, over its own HTTP API. Implements ports.Shelf."""

from collections.abc import AsyncIterable, Callable, Mapping

import msgspec

from services.inference.adapters.answers import NOT_OF_THE_SHAPE, Size
from services.inference.adapters.bodies import encode
from services.inference.adapters.connection import Patience, Phase
from services.inference.adapters.readers import ERROR_BYTES_MAX, WholeReader, known_words, refusal
from services.inference.adapters.upload import ask_once
from services.inference.adapters.wire import LISTING_BYTES_MAX, Wire
from services.inference.errors import ModelNotFound
from services.inference.ports import Fault, Progress, Trouble

# Ollama tells of a download twenty times a second, but is silent while it hashes a layer of tens of gigabytes, or
# quantizes one.
PATIENCE = Patience(first_s=300.0, stall_s=900.0)
LINE_BYTES_MAX = 64 * 1024
SUCCESS = "success"
# Ollama's words for a name that its registry does not have.
_UNKNOWN = ("file does not exist", "not found", "invalid model name")


class ProgressLine(msgspec.Struct):
    """A line of /api/pull or /api/create."""

    status: str = ""
    digest: str = ""
    total: Size = 0
    completed: Size = 0
    error: str | None = None


_decode_line = msgspec.json.Decoder(ProgressLine).decode


class ProgressReader:
    """Tells of each line. "success" makes it complete, and nothing else does."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self.phase = Phase.SILENT
        self._tell = tell
        self._status = 0
        self._rest = b""
        self._error: str | None = None
        self._broken = ""

    def head(self, status: int) -> None:
        self._status = status

    def feed(self, data: bytes) -> bool:
        if self._status != 200:
            self._rest += data
            return len(self._rest) <= ERROR_BYTES_MAX
        if self.phase is not Phase.COMPLETE:
            self.phase = Phase.FLOWING
        *lines, self._rest = (self._rest + data).split(b"\n")
        return len(self._rest) <= LINE_BYTES_MAX and all(map(self._take, filter(None, lines)))

    def check(self, model: str) -> None:
        """Raise what went wrong, if anything did."""
        if self._status != 200:
            raise refusal(self._status, self._rest, model)
        if self._error is not None:
            if any(words in self._error for words in _UNKNOWN):
                raise ModelNotFound(model=model)
            raise Trouble(Fault.BROKEN, f"it reports an error{known_words(self._error)}")
        if self.phase is not Phase.COMPLETE:
            raise Trouble(Fault.BROKEN, self._broken or "it stopped before it was done")

    def _take(self, text: bytes) -> bool:
        try:
            line = _decode_line(text)
        except NOT_OF_THE_SHAPE:
            self._broken = "a malformed line"
            return False
        if line.error is not None:
            self._error = line.error
            return False
        if line.status == SUCCESS:
            self.phase = Phase.COMPLETE
        self._tell(
            Progress(
                status=line.status,
                digest=line.digest,
                total_bytes=line.total,
                completed_bytes=line.completed,
            )
        )
        return True


class OllamaShelf:
    """One server's. Closing a connection ends what was asked over it; a pull goes on from there the next time."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def pull(self, model: str, *, insecure: bool, tell: Callable[[Progress], None]) -> None:
        body = {"model": model, "stream": True, **({"insecure": True} if insecure else {})}
        await self._watched("/api/pull", body, model, tell)

    async def create(self, model: str, body: Mapping[str, object], tell: Callable[[Progress], None]) -> None:
        await self._watched("/api/create", {**body, "stream": True}, model, tell)

    async def delete(self, model: str) -> None:
        await self._done("DELETE", "/api/delete", {"model": model}, model)

    async def copy(self, source: str, destination: str) -> None:
        await self._done("POST", "/api/copy", {"source": source, "destination": destination}, source)

    async def show(self, model: str, *, verbose: bool) -> Mapping[str, object]:
        body = encode({"model": model, **({"verbose": True} if verbose else {})})
        return await self._wire.asked("POST", "/api/show", dict[str, object], body, model=model)

    async def has_blob(self, digest: str) -> bool:
        status, _ = await ask_once(self._wire, "HEAD", f"/api/blobs/{digest}")
        if status not in {200, 404}:
            raise Trouble(Fault.BROKEN, f"status {status}")
        return status == 200

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes]) -> None:
        status, body = await ask_once(self._wire, "POST", f"/api/blobs/{digest}", chunks)
        if status not in {200, 201}:
            raise refusal(status, body, digest)

    async def _watched(
        self, path: str, body: Mapping[str, object], model: str, tell: Callable[[Progress], None]
    ) -> None:
        reader = ProgressReader(tell)
        await self._wire.send(self._wire.request("POST", path, encode(body)), reader, PATIENCE)
        reader.check(model)

    async def _done(self, method: str, path: str, body: Mapping[str, object], model: str) -> None:
        reader = WholeReader(bytes_max=LISTING_BYTES_MAX)
        await self._wire.send(self._wire.request(method, path, encode(body)), reader, self._wire.listing)
        reader.check(model)
