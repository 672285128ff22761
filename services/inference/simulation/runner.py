"""A model in memory: its slots, what each of them remembers, and the line before them.

Each slot keeps the tokens of its last prompt and answer, so that a prompt that begins alike is read only from
where it differs. llama.cpp's choice among the idle slots: the one that shares most with the prompt, if that
is more than a tenth of it, else the one that was used longest ago.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf

from services.inference.simulation.pace import Pace
from services.inference.simulation.parts import (
    Block,
    Finished,
    ModelSpec,
    Request,
    Resident,
    RunnerOptions,
    UnloadCause,
)

SIMILAR_MIN = 0.1  # llama.cpp's default for --slot-prompt-similarity.
ARRIVED, READING, WRITING, GONE = range(4)


@dataclass(slots=True, eq=False)
class Slot:
    held: tuple[Block, ...] = ()
    used: int = 0  # The larger, the later. 0: never.
    busy: bool = False


@dataclass(slots=True, eq=False)
class Run:
    """A request and how far it is."""

    request: Request
    arrived_s: float
    phase: int = ARRIVED
    left: bool = False
    runner: "Runner | None" = None
    slot: Slot | None = None
    goal: float = -1.0
    base: float = 0.0  # Where its first unit began, on the clock of its pace.
    reused: int = 0  # Tokens.
    ready_s: float = 0.0  # When its model was loaded.
    started_s: float = 0.0  # When it got its slot.
    read_s: float = 0.0  # When its prompt was read.

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def prompt_token_count(self) -> int:
        return sum(block.token_count for block in self.request.prompt)


@dataclass(slots=True, eq=False)
class Runner:
    spec: ModelSpec
    options: RunnerOptions
    keep_alive_s: float  # Infinite: for ever.
    parallel: int
    began_s: float
    ready_at_s: float
    ready: bool = False
    expires_at_s: float = inf  # While it is used, never.
    go_cause: UnloadCause = UnloadCause.EXPIRED  # Why it goes when its keep_alive is over.
    users: dict[int, Run] = field(default_factory=dict)
    waiting: OrderedDict[int, Run] = field(default_factory=OrderedDict)  # For a slot.
    reading: Pace[Run] = field(default_factory=Pace)
    writing: Pace[Run] = field(default_factory=Pace)
    slots: list[Slot] = field(init=False)
    busy_count: int = 0
    _use_count: int = 0

    def __post_init__(self) -> None:
        self.slots = [Slot() for _ in range(self.parallel)]

    def start(self, run: Run, now_s: float) -> None:
        """Give it a slot, of which there must be one, and let it read its prompt."""
        length = run.prompt_token_count
        slot, shared = self._best_slot(run.request.prompt, length)
        slot.busy, slot.held = True, ()
        self.busy_count += 1
        run.slot, run.started_s, run.phase = slot, now_s, READING
        run.reused = max(0, min(shared, length - 1))  # The last token is always read again, to go on from.
        self.reading.enter()
        run.base = self.reading.done
        self.reading.aim(run, run.base + max(1, length - run.reused))

    def write(self, run: Run, now_s: float) -> None:
        """Its prompt is read: let it write."""
        self.reading.leave()
        self.writing.enter()
        run.phase, run.read_s, run.base = WRITING, now_s, self.writing.done
        self.writing.aim(run, run.base + 1)

    def written_count(self, run: Run, done: float) -> int:
        """Return the tokens of its answer that are out when the pace's clock reads `done`."""
        if run.phase != WRITING:
            return 0
        return min(int(done - run.base + 1e-6), run.request.output_token_count)

    def release(self, run: Run) -> int:
        """Take its slot back, and return how many tokens it wrote. The slot remembers what it worked on."""
        assert run.slot is not None
        written = self.written_count(run, self.writing.done)
        run.slot.held = self._worked_on(run, written)
        (self.writing if run.phase == WRITING else self.reading).leave()
        self._use_count += 1
        run.slot.used, run.slot.busy = self._use_count, False
        run.phase, run.goal = GONE, -1.0
        self.busy_count -= 1
        return written

    def finished(self, run: Run, written: int, now_s: float) -> Finished:
        return Finished(
            at_s=now_s,
            id=run.id,
            model=self.spec.name,
            load_s=run.ready_s - run.arrived_s,
            prompt_token_count=run.prompt_token_count,
            prompt_s=run.read_s - run.started_s,
            output_token_count=written,
            output_s=now_s - run.read_s,
            reused_token_count=run.reused,
            slot_wait_s=run.started_s - run.ready_s,
        )

    def resident(self, now_s: float, *, vram_max_bytes: int) -> Resident:
        return Resident(
            model=self.spec.name,
            runner=self.options,
            vram_bytes=min(self.spec.vram_bytes, vram_max_bytes),
            ready=self.ready,
            busy_count=self.busy_count,
            waiting_count=len(self.waiting),
            expires_at_s=min(self.expires_at_s, now_s + self.keep_alive_s),
        )

    def _worked_on(self, run: Run, written: int) -> tuple[Block, ...]:
        request = run.request
        if run.phase == READING:
            read = run.reused + int(self.reading.done - run.base + 1e-6)
            return _within(request.prompt, read)
        if not written:
            return request.prompt
        key = request.answer_key or f"answer {request.id}"
        whole = written == request.output_token_count
        return (*request.prompt, Block(key if whole else f"{key} until {written}", written))

    def _best_slot(self, prompt: tuple[Block, ...], length: int) -> tuple[Slot, int]:
        """Return an idle slot and how many tokens it shares with the prompt."""
        best: Slot | None = None
        best_shared = 0
        oldest: Slot | None = None
        for slot in self.slots:
            if slot.busy:
                continue
            if oldest is None or slot.used < oldest.used:
                oldest = slot
            shared = _shared(slot.held, prompt)
            if shared > best_shared and shared > SIMILAR_MIN * length:
                best, best_shared = slot, shared
        if best is not None:
            return best, best_shared
        assert oldest is not None
        return oldest, _shared(oldest.held, prompt)


def _shared(held: tuple[Block, ...], prompt: tuple[Block, ...]) -> int:
    count = 0
    for mine, theirs in zip(held, prompt, strict=False):
        if mine.key != theirs.key:
            break
        count += theirs.token_count
    return count


def _within(prompt: tuple[Block, ...], token_count: int) -> tuple[Block, ...]:
    """Return the blocks at the beginning that lie whole within so many tokens."""
    for place, block in enumerate(prompt):
        token_count -= block.token_count
        if token_count < 0:
            return prompt[:place]
    return prompt
