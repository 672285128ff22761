"""What the engine needs from the outside world, and the words they share."""

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from services.inference.core.accounting import Entry, Line, Question
from services.inference.core.admission import Order
from services.inference.core.asks import ToolCall
from services.inference.core.budgets import NOTHING, Amount, Grant, Payer
from services.inference.core.ledger import Report
from services.inference.core.options import Value
from services.inference.core.usage import Usage


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was, and the likeliest at its place. Its bytes need not be UTF-8 by themselves."""

    token: str
    logprob: float
    token_bytes: bytes
    top: "tuple[TokenLogprob, ...]" = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What an instance generated: tokens of text or thought that arrived together, and whole tool calls."""

    text: str = ""
    thinking: str = ""
    token_count: int = 0  # Of text and thinking together.
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()  # If they were asked for, and the instance tells.


class EndReason(Enum):
    """Why a model stopped."""

    STOP = auto()
    LENGTH = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an instance says of an answer that it completed. Durations are its own measurements."""

    reason: EndReason
    prompt_token_count: int = 0
    output_token_count: int = 0
    load_s: float = 0.0
    prompt_s: float = 0.0
    output_s: float = 0.0
    context: tuple[int, ...] = ()

    @property
    def usage(self) -> Usage:
        """What it cost."""
        return Usage(
            prompt_token_count=self.prompt_token_count,
            prompt_s=self.prompt_s,
            output_token_count=self.output_token_count,
            output_s=self.output_s,
            load_s=self.load_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """One vector per input, in order."""

    vectors: Sequence[Sequence[float]]
    prompt_token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an instance tells of one model beyond its card."""

    template: str
    license: str
    context_token_count_max: int  # 0 if it does not say.


class Sink(Protocol):
    """Takes an answer as it arrives. Synchronous: an instance's pace is never a reader's pace."""

    by_token: bool  # Whether it wants a piece for each token, however many have arrived together.

    def write(self, piece: Piece) -> bool:
        """Take a piece. False asks for no more: the answer should be given up."""

    def finish(self, outcome: Outcome) -> None:
        """Take the end of a complete answer."""


class Fault(Enum):
    """How an instance failed."""

    UNREACHABLE = auto()  # No connection, or it broke: the instance itself is in doubt.
    STALLED = auto()  # Connected, but silent for too long.
    BROKEN = auto()  # It answered with an error or with nonsense.


class Trouble(Exception):
    """An instance failed; another one might not. `detail` is for the log alone."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault.name}: {detail}")
        self.fault = fault
        self.detail = detail


class Instance(Protocol):
    """An Ollama server.

    Methods raise Trouble if it failed, and a MeshError if it refused the request as such. Cancelling one
    ends the work upstream; it returns or raises only when the instance's part in it is over.
    """

    async def complete(self, order: Order, model: str, sink: Sink, *, first_token_s: float) -> None:
        """Answer a Chat or Generate into `sink`. `model` is the instance's own spelling.

        Silence for `first_token_s` (inf: any time) at the beginning is Trouble; configuration may allow less.
        """

    async def embed(self, order: Order, model: str, *, first_token_s: float) -> Vectors:
        """Answer an Embed."""

    async def load(
        self, model: str, *, embeds: bool, options: Mapping[str, Value], keep_alive_s: float
    ) -> float:
        """Load a model with the runner options that its requests carry; return the seconds that took.

        `embeds` says that it can do nothing else. Whatever goes wrong is Trouble: no caller asked for this.
        """

    async def unload(self, model: str) -> None:
        """Free a model's memory; return when the instance no longer lists it. Only ever raises Trouble."""

    async def probe(
        self, model: str | None, *, embeds: bool = False, options: Mapping[str, Value] | None = None
    ) -> None:
        """Have one token generated, or one text embedded; without a model, only ask whether it is there.

        `options` are the runner options of the model. Only ever raises Trouble.
        """

    async def report(self) -> Report:
        """Say what it is and has."""

    async def describe(self, model: str) -> Description:
        """Tell more of one model."""


class BankAway(Exception):
    """Whoever keeps the budgets does not answer."""


class ReservationLost(Exception):
    """It is not known any more."""


class Bank(Protocol):
    """The ledger of budgets. Every method raises BankAway."""

    async def reserve(
        self,
        name: str,
        payer: Payer,
        *,
        needed: Amount,
        wanted: Amount = NOTHING,
        lease_s: float,
        token: str = "",
    ) -> Grant:
        """Set an amount aside under a new name. `token` is the payer's, if there is one. Raises QuotaExceeded."""

    async def settle(
        self,
        name: str,
        used: Amount,
        *,
        lease_s: float | None = None,
        held: Amount = NOTHING,
        wanted: Amount = NOTHING,
    ) -> Grant | None:
        """Tell all that was used under a name so far, and set aside anew what is held.

        Without a lease, that was all. None: nothing is set aside any more. Raises ReservationLost.
        """


class UsageBook(Protocol):
    """The usage ledger. Every method raises StoreFailure when the store gives no answer."""

    async def write(self, entries: Sequence[Entry]) -> None:
        """Add entries; those that are there already add nothing."""

    async def read(self, question: Question, *, lines_max: int) -> Sequence[Line]:
        """Add up what was used, in up to so many lines."""

    async def keep(self, *, ahead_days: int, kept_days: int) -> tuple[int, int]:
        """See to it that days to come have their partitions and that those long past go; how many did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an instance is with a pull or a create, in its own words."""

    status: str
    digest: str = ""  # Of the layer at hand.
    total_bytes: int = 0
    completed_bytes: int = 0


class Shelf(Protocol):
    """What an Ollama server keeps on its disk.

    Methods raise Trouble if it failed, and a MeshError if the request itself is at fault. Cancelling one hangs up.
    """

    async def pull(self, model: str, *, insecure: bool, tell: Callable[[Progress], None]) -> None:
        """Fetch a model from its registry; return when it is there. Begun again, it goes on where it stopped."""

    async def create(self, model: str, body: Mapping[str, object], tell: Callable[[Progress], None]) -> None:
        """Make a model as Ollama's /api/create does. `body` names it too."""

    async def delete(self, model: str) -> None:
        """Forget a model."""

    async def copy(self, source: str, destination: str) -> None:
        """Give a model a second name."""

    async def show(self, model: str, *, verbose: bool) -> Mapping[str, object]:
        """Tell all of a model, as Ollama's /api/show does."""

    async def has_blob(self, digest: str) -> bool:
        """Say whether a file is there."""

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes]) -> None:
        """Take a file."""
