"""Replicas that share a log in memory, and clients of theirs, in virtual time: minutes of outages take milliseconds."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from ollamesh.inference.v1.completion_pb2 import ChatResponse
from prometheus_client import CollectorRegistry

from services.common.errors import MeshError
from services.inference.core.accounting import Entry
from services.inference.core.admission import Order
from services.inference.core.asks import Chat, Generate, Message, Options, Role
from services.inference.core.callers import Principal, Wishes
from services.inference.core.jobs import Priority
from services.inference.core.ledger import Card
from services.inference.core.secret_names import Names
from services.inference.desk import Standing
from services.inference.engine import Terms
from services.inference.ports import EndReason, Outcome, Piece, Sink
from services.inference.streams.ids import StreamIds
from services.inference.streams.limits import Limits
from services.inference.streams.means import Asked, Means, Stream
from services.inference.streams.metrics import StreamMetrics
from services.inference.streams.registry import Streams
from services.inference.wire.frames import frame
from services.inference.work import Seat, Work
from tests.fakes.shared_log import Memory

T = TypeVar("T")
DIGEST = "sha256:1"
WORDS = [f" w{number}" for number in range(40)]
WHOLE = "".join(WORDS)
TOKEN_S = 0.25
OUTCOME = Outcome(reason=EndReason.STOP, prompt_token_count=3, output_token_count=len(WORDS))
USER = Principal(organization_id="org-1", project_id="p", user_id="user-1")
STEADY, SAMPLED = Options(temperature=0.0), Options(temperature=1.0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never waits: time is what is waited for next."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        self._now_s = 0.0
        looked = selector.select

        def select(timeout: float | None = None) -> Any:
            assert timeout is not None, "nothing will ever happen"
            self._now_s += max(0.0, timeout)
            return looked(0)

        selector.select = select  # type: ignore[method-assign]

    def time(self) -> float:
        return self._now_s


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class Desk:
    """Gives everybody a slot at once; every answer is WORDS, one in TOKEN_S, unless a replica is told otherwise."""

    def __init__(self) -> None:
        self.words: Sequence[str] = WORDS
        self.asked_count = 0
        self.refusal: MeshError | None = None
        self.running: dict[int, asyncio.Task[None]] = {}
        self._tickets = count()

    async def submit(self, order: Order, terms: Terms, work: Work) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.asked_count += 1
        ticket = next(self._tickets)
        seat = Seat(name="gpu", instance=self, card=Card(name="tiny:latest", digest=DIGEST), first_token_s=1)  # type: ignore[arg-type]
        task = self.running[ticket] = asyncio.get_running_loop().create_task(work.run(seat))
        task.add_done_callback(lambda _: self.running.pop(ticket, None))
        return ticket

    def abandon(self, ticket: int) -> None:
        if (task := self.running.get(ticket)) is not None:
            task.cancel()

    async def standing(self) -> Standing:
        return Standing(busy={}, queues={})

    async def complete(self, order: Order, model: str, sink: Sink, *, first_token_s: float) -> None:
        for word in self.words:
            await asyncio.sleep(TOKEN_S)
            if not sink.write(Piece(text=word, token_count=1)):
                return
        sink.finish(OUTCOME)


@dataclass
class Replica:
    """One process."""

    memory: Memory
    process_id: str
    limits: Limits = field(default_factory=Limits)
    desk: Desk = field(default_factory=Desk)
    entries: list[Entry] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    is_alone: bool = False

    def __post_init__(self) -> None:
        self.streams = Streams(
            Means(
                desk=self.desk,
                seal=frame,
                ids=StreamIds(b"secret"),
                names=Names("secret", purpose="streams"),
                shared=None if self.is_alone else self.memory.of(self.process_id),
                cache=None,
                replay_tokens_per_s=0.0,
                limits=self.limits,
                metrics=StreamMetrics(self.registry),
                lag_bytes_max=1 << 18,
                process_id=self.process_id,
                record=self.entries.append,
                readmit=readmit,
            )
        )
        self.running = asyncio.get_running_loop().create_task(self.streams.run())

    @property
    def is_empty(self) -> bool:
        """Whether nothing of any stream is left."""
        streams = self.streams
        return not any(
            (streams._records, streams._joinable, streams._followed, streams._keeper._kept, self.desk.running)
        )

    def count(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        return self.registry.get_sample_value(f"ollamesh_stream{name}", labels) or 0.0

    async def kill(self) -> None:
        """End it as SIGKILL does: nothing is said or written any more."""
        self.memory.cut_off.add(self.process_id)
        await self._cancelled()

    async def stop(self) -> None:
        """End it in order."""
        await self._cancelled()
        await self.streams.close()

    async def _cancelled(self) -> None:
        for task in [self.running, *self.desk.running.values()]:
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def open(
        self, text: str = "hello", *, options: Options = STEADY, wait_max_s: float = 60.0, **wishes: Any
    ) -> Coroutine[Any, Any, Stream]:
        return self.streams.open(asked(text, options=options, wait_max_s=wait_max_s, **wishes))


def readmit(ask: Chat | Generate, _tenant: str) -> Order:
    return Order(ask=ask, model="tiny:latest", options={}, keep_alive_s=300.0)


def asked(text: str, *, options: Options = STEADY, wait_max_s: float = 60.0, **wishes: Any) -> Asked:
    ask = Chat(model="tiny", messages=(Message(role=Role.USER, content=text),), options=options)
    terms = Terms(
        tenant=USER.organization_id,
        priority=Priority.DEFAULT,
        wait_max_s=wait_max_s,
        total_max_s=300.0,
        run_max_s=300.0,
    )
    return Asked(
        order=readmit(ask, ""), terms=terms, principal=USER, wishes=Wishes(**wishes), model_digest=DIGEST
    )


class Client:
    """Reads a stream, and goes on with it anywhere from where it is; has everything that it was ever told."""

    def __init__(self, stream: Stream, replica: "Replica | None" = None) -> None:
        self.reads_at = replica
        self.stream_id = stream.stream_id
        self.text = ""
        self.last = 0
        self.has_finished = False
        self.failures: list[str] = []
        self._listen(stream)

    @property
    def is_reading(self) -> bool:
        return not self._task.done()

    async def resume(self, replica: Replica) -> None:
        """Go on at a replica."""
        self.leave()
        self.reads_at = replica
        try:
            self._listen(await replica.streams.resume(USER, self.stream_id, after=self.last))
        except MeshError as error:
            self.failures.append(error.reason)

    def leave(self) -> None:
        self._task.cancel()
        self._stream.close()

    async def end(self) -> "Client":
        """Return when it is told nothing more."""
        await asyncio.wait([self._task])
        return self

    def _listen(self, stream: Stream) -> None:
        self._stream = stream
        self._task = asyncio.get_running_loop().create_task(self._read(stream))

    async def _read(self, stream: Stream) -> None:
        try:
            while (one := await stream.read()) is not None:
                event = ChatResponse.FromString(one).event
                assert event.sequence == self.last + 1, "there is no gap"
                assert not self.has_finished, "nothing comes after the end"
                self.last = event.sequence
                self.text += event.delta.text
                self.has_finished = event.HasField("finished")
        except MeshError as error:
            self.failures.append(error.reason)
        finally:
            stream.close()


@asynccontextmanager
async def replicas(count: int = 2, **more: object) -> AsyncIterator[tuple[Memory, list[Replica]]]:
    memory = Memory()
    made = [Replica(memory, f"p{number}", **more) for number in range(count)]  # type: ignore[arg-type]
    await asyncio.sleep(1.0)  # Each has said that it lives.
    yield memory, made
    for replica in made:
        replica.running.cancel()
    await asyncio.sleep(0)


def story(tell: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A test in virtual time."""

    def told() -> None:
        async def whole() -> None:
            await tell()

        in_virtual_time(whole())

    told.__name__ = getattr(tell, "__name__", "told")
    return told
