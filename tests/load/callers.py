"""How a request of each kind is made: by the product's own client, as a program of a user's would."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from ollamesh.client import Client, batches, chats, runs

from tests.load.record import Plan
from tests.load.schedule import Shot

CACHED_PROMPT_COUNT = 8  # So many answers are worth keeping; each is made once.
SENTENCE_ENDS = (".", ",", "\n", "!", "?")
# What ends a run well: it answered, or met the few steps that it was given.
WELL = frozenset({"succeeded", "limited"})


class Refused(Exception):
    """The work was done and failed; a failed call is a CallError."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Sign:
    """The first token, when it comes, and how many have."""

    now_s: Callable[[], float] = time.monotonic
    first_s: float | None = None
    token_count: int = 0

    def seen(self) -> None:
        if self.first_s is None:
            self.first_s = self.now_s()


async def ask(client: Client, plan: Plan, shot: Shot, sign: Sign) -> None:
    """Make a request and read all of its answer. Raises CallError or Refused."""
    match shot.kind:
        case "chat":
            options = chats.Options(temperature=0.7, output_token_count_max=plan.models.output_max)
            await _chat(
                client,
                plan,
                f"Tell me one fact about the number {shot.number}.{plan.models.tail}",
                options,
                sign,
            )
        case "cached":
            # Only what ended by itself is kept.
            options = chats.Options(
                temperature=0, seed=1, output_token_count_max=4 * plan.models.output_max, stop=SENTENCE_ENDS
            )
            which = shot.number % CACHED_PROMPT_COUNT
            await _chat(client, plan, f"What follows {which}?{plan.models.tail}", options, sign)
        case "embed":
            await client.embed(plan.models.embed, [f"Passage {shot.number}: the quick brown fox jumps."])
        case "run":
            await _run(client, plan, shot, sign)
        case "batch":
            await _batch(client, plan, shot, sign)


async def _chat(client: Client, plan: Plan, text: str, options: chats.Options, sign: Sign) -> None:
    async with aclosing(client.chat(plan.models.chat, text, options=options)) as events:
        async for event in events:
            match event:
                case chats.Delta():
                    sign.seen()
                case chats.Finished():
                    sign.token_count = event.output_token_count
                case _:
                    pass


async def _run(client: Client, plan: Plan, shot: Shot, sign: Sign) -> None:
    tool = plan.models.tool
    config = runs.Config(
        model=plan.models.chat,
        tools=(tool,) if tool else (),
        first_tool=tool,
        step_count_max=2,
        output_token_count_per_call_max=plan.models.output_max,
    )
    async with aclosing(client.run(f"Print the number {shot.number}.{plan.models.tail}", config)) as events:
        async for event in events:
            match event:
                case runs.Delta() | runs.ToolCalled():
                    sign.seen()
                case runs.Finished():
                    sign.token_count = event.usage.output_token_count
                    if event.status not in WELL:
                        raise Refused(event.failure_reason or event.status.upper())
                case _:
                    pass


async def _batch(client: Client, plan: Plan, shot: Shot, sign: Sign) -> None:
    options = chats.Options(temperature=0.7, output_token_count_max=plan.models.output_max)
    texts = [
        f"Item {shot.number}.{item}: name a colour.{plan.models.tail}"
        for item in range(plan.batch_item_count)
    ]
    batch = await client.create_batch(
        [batches.chat(plan.models.chat, text, options=options) for text in texts]
    )
    results: AsyncIterator[batches.Result] = client.batch_results(batch.batch_id)
    async for result in results:
        sign.seen()
        if result.error is not None:
            raise Refused(result.error.reason or result.error.code.name)
