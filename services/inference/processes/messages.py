"""What a worker and the head say to each other: per request, never per token; and never a prompt or an answer.

MessagePack by msgspec, typed on both ends: the longest of these takes 1.2 µs both ways, where pickled dataclasses take
36, and a message that is not one of these is an error rather than an object. Times are seconds of the event loop's
clock, which is the machine's monotonic one and so the same in both processes.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol, Self

import msgspec

from services.common import errors as common_errors
from services.common.errors import InvalidRequest, MeshError
from services.inference import errors as inference_errors
from services.inference.core.breaker import BreakerState
from services.inference.core.gpus import Gpu
from services.inference.core.ledger import Report
from services.inference.core.prefixes import Prefix
from services.inference.core.usage import Usage
from services.inference.ports import Fault
from services.inference.processes.frames import framed


class Message(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What all have in common. `number` is the request's, as its worker counts."""


class Wrong(Message, frozen=True):
    """An error that a caller gets. An unknown `reason` is a bug, whose text stays where it was logged."""

    reason: str
    facts: dict[str, str] = {}
    retry_after_s: float | None = None


# From a worker


class Serving(Message, tag=1, frozen=True):
    """It takes calls."""

    port: int


class Submit(Message, tag=2, frozen=True):
    """Queue this. Answered by Accepted or Refused."""

    number: int
    operation: str
    tenant: str
    model: str
    priority: int
    wait_max_s: float
    total_max_s: float
    run_max_s: float
    prompt_token_count: int
    output_token_max: int
    prefixes: tuple[Prefix, ...]


class Abandon(Message, tag=3, frozen=True):
    """Its caller has left. If it runs, Ended is yet to come."""

    number: int


class Ended(Message, tag=4, frozen=True):
    """The answer to Run: the instance's connection is idle or closed."""

    number: int
    started: bool = True  # False: nothing was sent to the instance.
    cancelled: bool = False
    fault: int = 0  # Of Fault; 0 if the instance did not fail.
    detail: str = ""
    begun: bool = False  # As Work has them.
    may_restart: bool = True
    over: bool = False
    usage: Usage | None = None
    # As Summary has them.
    ended_at_s: float | None = None
    first_token_at_s: float | None = None
    prompt_token_count: int = 0
    output_token_count: int = 0
    error: str | None = None  # Its reason; empty for a bug.


class Ask(Message, tag=5, frozen=True):
    """Who runs and who waits? Answered by Standing."""

    number: int


class Exemplar(Message, frozen=True):
    labels: dict[str, str]
    value: float
    at_s: float | None


class Family(Message, frozen=True):
    """One metric, and its samples by name and labels."""

    name: str
    documentation: str
    kind: str
    unit: str
    samples: tuple[tuple[str, dict[str, str], float, Exemplar | None], ...]


class Counts(Message, tag=6, frozen=True):
    """All that the worker has counted so far. Also says that it is alive."""

    families: tuple[Family, ...]


class Keep(Message, tag=30, frozen=True):
    """Have a model loaded or unloaded. Answered by Kept."""

    number: int
    unload: bool
    model: str
    instance: str
    pin: bool = False
    keep_out_s: float = 0.0


class Forgo(Message, tag=31, frozen=True):
    """Whoever wanted that has left."""

    number: int


class Doubt(Message, tag=32, frozen=True):
    """Have an instance looked at now."""

    instance: str


# From the head


class Accepted(Message, tag=7, frozen=True):
    number: int


class Refused(Message, tag=8, frozen=True):
    number: int
    wrong: Wrong


class Place(Message, tag=9, frozen=True):
    """So many go first."""

    number: int
    ahead_count: int
    wait_s: float


class Run(Message, tag=10, frozen=True):
    """It has a slot. Answered by Ended, always."""

    number: int
    instance: str
    model: str  # In the instance's spelling.
    digest: str
    first_token_s: float


class Cancel(Message, tag=11, frozen=True):
    """End what runs, unless its caller has all that it will get."""

    number: int
    wrong: Wrong | None  # What to tell the caller, if it is still there.


class Fail(Message, tag=12, frozen=True):
    """It will not be done."""

    number: int
    wrong: Wrong


class Card(Message, frozen=True):
    """As the ledger has it; like all of these without the names of its fields, so never longer than it was in JSON."""

    name: str
    digest: str
    size_bytes: int
    family: str
    parameter_size: str
    quantization: str
    capabilities: frozenset[str]
    modified_at: datetime | None


class Resident(Message, frozen=True):
    """As the ledger has it."""

    name: str
    digest: str
    size_bytes: int
    vram_bytes: int
    context_token_count: int
    quantization: str
    expires_at: datetime | None


class Listing(Message, frozen=True):
    """A Report of the ledger's."""

    version: str
    cards: tuple[Card, ...]
    residents: tuple[Resident, ...]

    @classmethod
    def of(cls, report: Report) -> Self:
        return msgspec.convert(report, cls, from_attributes=True)

    def report(self) -> Report:
        return msgspec.convert(self, Report, from_attributes=True)


class Seen(Message, tag=13, frozen=True):
    """An instance, as the head believes it to be."""

    name: str
    slots: int
    unready_reason: str
    silent: bool
    seen_at: datetime | None
    report: Listing | None  # None: as it was told last.
    gpus: tuple[Gpu, ...]
    vram_bytes: int
    breaker: BreakerState
    asked_at_s: float
    pinned: frozenset[str]


class Standing(Message, tag=14, frozen=True):
    """Busy slots by instance and model; who waits by model, each as priority and time of arrival."""

    number: int
    busy: Mapping[str, Mapping[str, int]]
    queues: Mapping[str, tuple[tuple[int, float], ...]]


class Alive(Message, tag=15, frozen=True):
    """The head decides."""


class Stop(Message, tag=16, frozen=True):
    """Drain, and end."""


class Kept(Message, tag=33, frozen=True):
    """The answer to Keep."""

    number: int
    instance: str
    wrong: Wrong | None


FromWorker = Serving | Submit | Abandon | Ended | Ask | Counts | Keep | Forgo | Doubt
FromHead = Accepted | Refused | Place | Run | Cancel | Fail | Seen | Standing | Alive | Stop | Kept

_ENCODER = msgspec.msgpack.Encoder()
from_worker = msgspec.msgpack.Decoder(FromWorker).decode
from_head = msgspec.msgpack.Decoder(FromHead).decode


class Send(Protocol):
    """Sends a message to the other side; does nothing if that is gone."""

    def __call__(self, message: FromWorker | FromHead, /) -> None: ...


def encoded(message: FromWorker | FromHead) -> bytes:
    """Return a message with its frame. Raises FrameTooLong."""
    return framed(_ENCODER.encode(message))


_KINDS: dict[str, type[MeshError]] = {
    found.reason: found
    for module in (common_errors, inference_errors)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, MeshError) and hasattr(found, "reason")
}
FAULTS = {fault.value: fault for fault in Fault}


def wrong(error: Exception) -> Wrong:
    """Return what the other side is told of an error."""
    if not isinstance(error, MeshError):
        return Wrong(reason="")
    return Wrong(reason=error.reason, facts=error.facts, retry_after_s=error.retry_after_s)


def error_of(told: Wrong) -> Exception:
    """Return the error that the other side told of."""
    kind = _KINDS.get(told.reason)
    if kind is None:
        return RuntimeError("a bug in another process, which has logged it")
    if kind is InvalidRequest:
        return InvalidRequest(())  # Its violations are its caller's alone.
    made = kind(retry_after_s=told.retry_after_s)
    made.facts.update(told.facts)
    return made
