"""The results of an execution that are kept for its readers, addressed by their number."""

from dataclasses import dataclass

from services.sandbox.core.output import FLOOD_FACTOR
from services.sandbox.core.results import Decoder, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultBounds:
    """Of one execution."""

    bytes_max: int = 8 << 20
    count_max: int = 64


RESULT_BOUNDS = ResultBounds()


class Results:
    def __init__(self, bounds: ResultBounds) -> None:
        self._bounds = bounds
        self._decoder = Decoder(bytes_max=bounds.bytes_max, count_max=bounds.count_max)
        self._kept: list[Result] = []
        self._written_bytes = 0

    def write(self, data: bytes) -> None:
        self._written_bytes += len(data)
        self._kept += self._decoder.feed(data)

    def end(self) -> None:
        """Nothing follows."""
        self._decoder.end()

    def read(self, index: int) -> Result | None:
        """None if there is none yet."""
        return self._kept[index] if index < len(self._kept) else None

    @property
    def count(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        return sum(len(data) for result in self._kept for data in result.values())

    @property
    def truncated(self) -> bool:
        return self._decoder.truncated

    @property
    def flooded(self) -> bool:
        """Whether the program goes on writing far past what is kept, as for output."""
        return self._written_bytes > (1 + FLOOD_FACTOR) * self._bounds.bytes_max
