"""What a request is charged when it has ended, and to whom."""

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from services.inference.completion import Completion, Finished, Source
from services.inference.core.accounting import Course, Entry, count, seconds
from services.inference.core.callers import Principal
from services.inference.core.usage import Usage
from services.inference.embeddings import Answer
from services.inference.errors import StreamCancelled
from services.inference.wire.told import finished_usage

Record = Callable[[Entry], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who asked for what."""

    principal: Principal
    stream_id: str  # Empty for what is no stream.
    model: str
    operation: str


def entry(
    account: Account,
    course: Course,
    usage: Usage,
    *,
    cached: bool = False,
    joined: bool = False,
    cancelled: bool = False,
) -> Entry:
    """What is written down of a request that has ended now.

    `usage` is what the instance said, if it did; where it said nothing of durations, the time with a slot counts.
    Who got another's answer, from the cache or by joining it, used no GPU.
    """
    gpu_s = 0.0 if cached or joined else usage.prompt_s + usage.output_s or course.slot_s
    return Entry(
        entry_id=uuid4(),
        created_at=dt.datetime.now(dt.UTC),
        stream_id=account.stream_id,
        principal=account.principal,
        model=account.model,
        operation=account.operation,
        prompt_token_count=count(usage.prompt_token_count),
        output_token_count=count(usage.output_token_count),
        gpu_s=seconds(gpu_s),
        queue_s=course.queue_s,
        cached=cached,
        joined=joined,
        cancelled=cancelled,
    )


def charge_completion(
    record: Record, account: Account, completion: Completion, *, joined: bool = False
) -> None:
    """Charge what was generated for one who asked, now that it has ended, or that they have left it.

    What failed before it had a slot is not charged.
    """
    left = not completion.ended or isinstance(completion.failure, StreamCancelled)
    cached = completion.started is not None and completion.started.source is Source.CACHE
    if not left and completion.failure is not None and completion.placed_at_s is None:
        return
    course = Course(
        opened_at_s=completion.opened_at_s,
        placed_at_s=completion.placed_at_s,
        ended_at_s=completion.ended_at_s or asyncio.get_running_loop().time(),
    )
    record(entry(account, course, _usage(completion), cached=cached, joined=joined, cancelled=left))


@contextmanager
def charged_embedding(record: Record, principal: Principal, model: str) -> Iterator[Callable[[Answer], None]]:
    """Charge an embedding with what the block tells of its answer, or as cancelled; not at all if it failed."""
    opened_at_s = asyncio.get_running_loop().time()
    account = Account(principal=principal, stream_id="", model=model, operation="embeddings")

    def charge(answer: Answer | None) -> None:
        now_s = asyncio.get_running_loop().time()
        course = Course(
            opened_at_s=opened_at_s,
            placed_at_s=answer.placed_at_s if answer is not None else None,
            ended_at_s=now_s,
        )
        if answer is None:
            record(entry(account, course, Usage(), cancelled=True))
            return
        usage = Usage(prompt_token_count=answer.prompt_token_count, prompt_s=answer.gpu_s)
        record(entry(account, course, usage, cached=answer.placed_at_s is None))

    try:
        yield charge
    except asyncio.CancelledError:
        charge(None)
        raise


def _usage(completion: Completion) -> Usage:
    """What the instance said, if it did; else what came."""
    ending = completion.ending
    if isinstance(ending, Finished):
        return ending.outcome.usage
    if completion.ended and completion.failure is None:  # Another replica has made it.
        return finished_usage(completion.log)
    return Usage(output_token_count=completion.token_count)
