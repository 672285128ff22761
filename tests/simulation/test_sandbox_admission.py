"""The sandbox's places under load: users who flood, who come seldom, who need much, who leave, and who keep sessions."""

import heapq
import random
from dataclasses import dataclass, field

from services.common.errors import MeshError
from services.sandbox.core.admission import PASSES_MAX, Admission, Bounds, Claim, Ticket
from services.sandbox.core.owners import Owner

BOUNDS = Bounds(
    memory_bytes=4096, session_memory_bytes=2048, running_max=8, waiting_max=32, user_executions_max=20
)
USERS = [Owner("o", f"user-{number}") for number in range(6)]
FLOODS, SELDOM, LARGE, *_ = USERS
STEPS_COUNT = 600


@dataclass
class World:
    """Time, and books of its own."""

    seed: int
    books: Admission = field(default_factory=lambda: Admission(BOUNDS))
    now_s: float = 0.0
    waiting: dict[int, Ticket] = field(default_factory=dict)
    running: list[tuple[float, int, Ticket]] = field(default_factory=list)
    passed_by: dict[int, int] = field(
        default_factory=dict
    )  # Placements of others since it was the owner's only one.
    waits_s: dict[Owner, list[float]] = field(default_factory=lambda: {owner: [] for owner in USERS})
    asked_s: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def ask(self, owner: Owner, claim: Claim) -> None:
        try:
            ticket = self.books.ask(owner, claim)
        except MeshError:
            return
        self.waiting[ticket.number] = ticket
        self.asked_s[ticket.number] = self.now_s
        if not any(other.owner == owner for other in self.under_way() if other is not ticket):
            self.passed_by[ticket.number] = 0
        self.advance()

    def under_way(self) -> list[Ticket]:
        return [*self.waiting.values(), *(ticket for _, _, ticket in self.running)]

    def leave(self) -> None:
        if self.waiting:
            ticket = self.waiting.pop(self.random.choice(list(self.waiting)))
            self.passed_by.pop(ticket.number, None)
            self.books.give_back(ticket)
            self.advance()

    def end_one(self) -> None:
        if self.running:
            self.now_s, _, ticket = heapq.heappop(self.running)
            self.books.give_back(ticket)
            self.advance()

    def advance(self) -> None:
        for placed in self.books.advance():
            del self.waiting[placed.number]
            self.waits_s[placed.owner].append(self.now_s - self.asked_s[placed.number])
            self.passed_by.pop(placed.number, None)
            for number in self.passed_by:
                self.passed_by[number] += 1
            lasts_s = self.random.uniform(0.01, 10) if placed.claim.runs else self.random.uniform(10, 60)
            heapq.heappush(self.running, (self.now_s + lasts_s, placed.number, placed))
        self.check()

    def check(self) -> None:
        held = [ticket for _, _, ticket in self.running]
        memory_bytes = sum(ticket.claim.memory_bytes for ticket in held)
        running_count = sum(ticket.claim.runs for ticket in held)
        assert memory_bytes <= BOUNDS.memory_bytes
        assert running_count <= BOUNDS.running_max
        assert len(self.waiting) <= BOUNDS.waiting_max
        assert (self.books.memory_bytes, self.books.running_count) == (memory_bytes, running_count)
        # Whoever has nothing but this one ticket waits for one place of each other user, and to be passed so often.
        assert all(count < len(USERS) + PASSES_MAX for count in self.passed_by.values())


def test_nobody_is_kept_out_whoever_else_wants_what(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS_COUNT):
        match world.random.random():
            case chance if chance < 0.45:
                world.ask(FLOODS, Claim(memory_bytes=512))
            case chance if chance < 0.5:
                world.ask(SELDOM, Claim(memory_bytes=256))
            case chance if chance < 0.55:
                world.ask(LARGE, Claim(memory_bytes=world.random.choice([1024, 2048])))
            case chance if chance < 0.6:
                world.ask(world.random.choice(USERS), Claim(memory_bytes=512, runs=False))
            case chance if chance < 0.7:
                world.ask(world.random.choice(USERS), Claim(memory_bytes=world.random.choice([0, 64, 512])))
            case chance if chance < 0.73:
                world.leave()
            case _:
                world.end_one()
    while world.running:
        world.end_one()
    assert not world.waiting
    assert (world.books.memory_bytes, world.books.running_count, world.books.waiting_count) == (0, 0, 0)


def test_a_flood_does_not_slow_down_who_comes_seldom(seed: int) -> None:
    """Who asks for one at a time waits for one place to become free, however many another has asked for before."""
    world = World(seed)
    for _ in range(100):
        while world.books.waiting_count < 12:
            world.ask(FLOODS, Claim(memory_bytes=512))
        asked = len(world.waits_s[SELDOM])
        world.ask(SELDOM, Claim(memory_bytes=512))
        world.end_one()
        assert len(world.waits_s[SELDOM]) == asked + 1
        while any(ticket.owner == SELDOM for ticket in world.under_way()):
            world.end_one()
