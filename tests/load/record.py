"""What passes between `make load` and the process that makes its traffic, as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.load.schedule import GOOD_WITHIN_S, Kind, Shot

OK = "ok"
NOT_SENT = (
    "NOT_SENT"  # The generator had as much in flight as it may: a failure of the load, and counted as one.
)
UNFINISHED = "UNFINISHED"  # Not answered when the run was over.


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    chat: str = "smollm2:135m"
    embed: str = "all-minilm"
    tool: str = "run_python"  # What an agent's run is made to call; empty: nothing.
    tail: str = ""  # Of every prompt: tells fake models how much to read and to write.
    output_max: int = 24  # Tokens of an answer.


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    edge: str  # A URL.
    username: str
    password: str
    shots: Sequence[Shot]
    models: Models = field(default_factory=Models)
    connection_count: int = 4  # Callers with a login and a connection each, in turns.
    in_flight_max: int = 2_000
    drain_s: float = 60.0  # How long to wait for answers after the last request.
    batch_item_count: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a request. Times are from the start of the run; latencies count from when it should have been sent."""

    kind: Kind
    at_s: float  # When it should have been sent,
    began_s: float  # and when it was.
    first_s: float  # Its first token, or the first sign of a run; -1: none.
    ended_s: float
    verdict: str  # OK or a reason.
    token_count: int = 0

    @property
    def total_s(self) -> float:
        return self.ended_s - self.at_s

    @property
    def first_after_s(self) -> float | None:
        return self.first_s - self.at_s if self.first_s >= 0 else None

    @property
    def is_good(self) -> bool:
        """Whether it was answered well and in time."""
        return self.verdict == OK and self.total_s <= GOOD_WITHIN_S[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    answers: Sequence[Answer]
    wall_s: float  # From the start to the last answer.
    cpu_s: float  # Of the generator.
    in_flight: Sequence[tuple[float, int]] = ()  # Once a second.
    parts: Mapping[str, "Cost"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a part of the mesh took meanwhile."""

    cpu_s: float
    memory_max_bytes: int
