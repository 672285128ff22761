"""What the engine needs from the outside world, and what the outside world is told of a run."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from services.agent.core.approvals import Decided
from services.agent.core.budget import Usage
from services.agent.core.conversation import Message
from services.agent.core.events import (
    ApprovalRequested,
    Channel,
    Event,
    Finished,
    Status,
)
from services.agent.core.ids import AssistantId, Owner, RunId, ThreadId
from services.agent.core.run_config import RunConfig
from services.agent.leases import Lease

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What makes a request recognisable when it comes again."""

    request_id: str
    body_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    size: int
    after: int | None  # Position of the last item of the page before.


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    items: Sequence[Item]
    next_after: int | None  # None on the last page.


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRecord:
    thread_id: ThreadId
    display_name: str
    labels: Mapping[str, str]
    active_run_id: RunId | None  # The one that works on it or will next.
    failed: bool  # Whether its last run to end did.
    is_interrupted: bool  # Whether the one that works on it waits for a person.
    message_count: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    message_id: UUID
    run_id: RunId
    message: Message
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    run_id: RunId
    thread_id: ThreadId
    position: int  # Rises with the runs of a thread, in the order in which they were committed.
    config: RunConfig
    status: Status
    usage: Usage
    outcome: Finished | None  # None until it has ended.
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    last_sequence: int
    is_batch: bool = False
    is_watched: bool = False  # Ends when nobody watches it.
    assistant_id: AssistantId | None = None
    assistant_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    record: RunRecord
    lease: Lease | None  # None: it was accepted before.
    displaced: Sequence[RunId] = ()  # Runs that are to end for it.


class Busy(Enum):
    """What becomes of the unfinished runs of a thread that is given another; names as in the proto's BusyPolicy."""

    ENQUEUE = "ENQUEUE"
    REJECT = "REJECT"
    INTERRUPT = "INTERRUPT"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    run_id: RunId
    thread_id: ThreadId
    question: str
    config: RunConfig
    busy: Busy = Busy.ENQUEUE
    watched_for_s: float | None = None  # Ends unless somebody watches it at least so often.
    assistant_id: AssistantId | None = None  # Whose configuration it began with.
    assistant_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is committed at once: all of it or nothing. Ends the run if the last event is Finished."""

    first_sequence: int
    time_s: float
    events: Sequence[Event]
    messages: Sequence[Message]
    usage: Usage


@dataclass(frozen=True, slots=True)
class StoredEvent:
    sequence: int
    payload: bytes  # agent.v1.RunEvent, the same for every watcher.


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    events: Sequence[StoredEvent]
    ended: bool
    last_sequence: int


class Threads(Protocol):
    """Conversations. Every method raises StoreFailure when the store does not answer."""

    async def create(
        self, owner: Owner, thread_id: ThreadId, name: str, labels: Mapping[str, str], retry: Retry | None
    ) -> ThreadRecord:
        """Store a thread. A repeated request finds the first one's; RequestIdReused if it differs.

        Raises TooManyObjects.
        """
        ...

    async def find(self, owner: Owner, thread_id: ThreadId) -> ThreadRecord:
        """Raises ThreadNotFound."""
        ...

    async def page(self, owner: Owner, request: PageRequest) -> Page[ThreadRecord]:
        """The owner's threads, newest first."""
        ...

    async def delete(self, owner: Owner, thread_id: ThreadId) -> None:
        """Forget the thread, everything in it, and the requests that made any of that. Idempotent."""
        ...

    async def messages(self, owner: Owner, thread_id: ThreadId, request: PageRequest) -> Page[MessageRecord]:
        """Oldest first. Raises ThreadNotFound."""
        ...


class Runs(Protocol):
    """Work on threads. Every method raises StoreFailure when the store does not answer.

    One Runs speaks for one replica: `accept` leases the run to it.
    """

    async def accept(self, owner: Owner, new: NewRun, retry: Retry | None) -> Accepted:
        """The run, committed.

        Raises ThreadNotFound, ThreadBusy, RequestIdReused, TooManyRuns, TooManyObjects.
        """
        ...

    async def accept_batch(
        self, owner: Owner, new: Sequence[NewRun], mandate: str, retry: Retry | None
    ) -> Sequence[RunRecord]:
        """The runs, each in a thread that is new, committed, and held by nobody.

        They share the mandate, which therefore outlasts each of them. Those of the same request before are found
        instead, as far as they are not deleted. Raises RequestIdReused, TooManyRuns, TooManyObjects.
        """
        ...

    async def repeated_batch(self, owner: Owner, retry: Retry) -> Sequence[RunRecord] | None:
        """The runs that the same request made before. Raises RequestIdReused if it was another."""
        ...

    async def repeated(self, owner: Owner, retry: Retry) -> RunRecord | None:
        """The run that the same request made before. Raises RequestIdReused if it was another."""
        ...

    async def find(self, owner: Owner, run_id: RunId) -> RunRecord:
        """Raises RunNotFound."""
        ...

    async def page(self, owner: Owner, thread_id: ThreadId, request: PageRequest) -> Page[RunRecord]:
        """The thread's runs, newest first. Raises ThreadNotFound."""
        ...

    async def unfinished(self, owner: Owner, thread_id: ThreadId) -> Sequence[RunId]:
        """The thread's runs that wait or work; none if there is no such thread."""
        ...

    async def request_cancel(self, run_id: RunId, *, rollback: bool) -> None:
        """Have whoever holds the run told when it next renews, or whoever looks next end it.

        With `rollback` what it says goes with its end. Raises RunBuiltUpon.
        """
        ...

    async def roll_back(self, run_id: RunId) -> None:
        """Take the thread back to where it was before a run that has ended. Idempotent. Raises RunBuiltUpon."""
        ...

    async def watched(self, run_ids: Collection[RunId], *, for_s: float) -> None:
        """Somebody watches these runs, and will be heard of again in so long."""
        ...

    async def tidy(self) -> None:
        """Forget requests that are too old to come again."""
        ...


class Events(Protocol):
    """What is told of runs. Every method raises StoreFailure when the store does not answer."""

    async def append(self, lease: Lease, batch: Batch) -> Sequence[StoredEvent]:
        """Commit a batch and return its events as they are stored. Idempotent. Raises LeaseLost."""
        ...

    async def read(self, run_id: RunId, *, after_sequence: int) -> EventPage:
        """The next events, as many as fit a page. Raises RunNotFound."""
        ...

    async def told(self, run_id: RunId) -> Sequence[tuple[float, Event]]:
        """Everything told so far, with its time."""
        ...


class Approvals(Protocol):
    """What became of questions. Every method raises StoreFailure when the store does not answer."""

    async def settle(self, run_id: RunId, question: ApprovalRequested, decided: Decided) -> Decided:
        """Decide, unless it is decided. Return the decision that holds: the first. Raises RunNotFound."""
        ...

    async def settled(self, run_id: RunId) -> Mapping[UUID, Decided]:
        """Every decision about the run's questions, by approval."""
        ...


class Effect(Enum):
    """What a tool does to the world; names as in the proto's ToolEffect."""

    NONE = "NONE"
    IDEMPOTENT = "IDEMPOTENT"
    STATE_CHANGING = "STATE_CHANGING"
    EXTERNAL = "EXTERNAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    name: str
    description: str  # For models and people.
    parameters_json_schema: str
    effect: Effect
    timeout_s: float
    is_confined: bool = False  # What it changes stays within the thread's own sandbox.
    returns_untrusted: bool = False  # Anybody may have written what it returns.
    takes_key: bool = False  # Called again with the same `CallContext.key`, it acts once.

    @property
    def is_repeatable(self) -> bool:
        """Whether a call whose result was lost may be made again."""
        return self.effect in {Effect.NONE, Effect.IDEMPOTENT} or self.takes_key

    @property
    def reaches_out(self) -> bool:
        """Whether a call may change, or tell, something outside the thread's own sandbox."""
        return self.effect is not Effect.NONE and not self.is_confined


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    content: str  # What the model reads.
    failed: bool
    may_pass: bool = False  # It failed in a way that another try may not.


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """On whose behalf a tool is called, until when, and where it writes."""

    deadline_s: float  # Of the event loop's clock.
    owner: Owner
    thread_id: ThreadId
    key: str  # Of this call, the same when it is made again: "RUN:CALL".
    write: Callable[[Channel, str], Awaitable[None]]
    # Whether another replica goes on with the run: then what is under way elsewhere is left to it, not ended.
    is_handed_over: Callable[[], bool] = lambda: False
    token: str = field(repr=False)  # Of the user, with `act`: tools run with the user's rights.


class Tool(Protocol):
    @property
    def spec(self) -> ToolSpec: ...

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        """Never raises for what the model did wrong or a service refused: the model is told."""
        ...


class Sessions(Protocol):
    """What threads have in the sandbox."""

    async def end(self, owner: Owner, thread_id: ThreadId, *, token: str) -> None:
        """End the thread's session, before the thread is forgotten. One that cannot be reached ends by its idleness."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A token to act with for a user, and until when."""

    expire_time_s: float  # Of the wall clock.
    token: str = field(repr=False)


class Mandates(Protocol):
    """The right to act for a user beyond the life of the token that they called with.

    Every method raises AuthUnavailable when the auth service does not answer.
    """

    async def create(self, token: str, *, lifetime_s: float) -> str:
        """A secret, to be kept sealed. Raises TokenInvalid, or AccessEnded where the token gives no such right."""
        ...

    async def redeem(self, mandate: str) -> Access:
        """A fresh token for inference and sandbox. Raises AccessEnded."""
        ...

    async def end(self, mandate: str) -> None:
        """It gives no more tokens. Idempotent."""
        ...
