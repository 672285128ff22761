"""Calls to embed that are sent together: each caller gets its own, in its order, in its time, and its own errors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidRequest, MeshError, Violation
from services.inference.core.admission import Order
from services.inference.core.asks import Embed
from services.inference.core.jobs import Priority
from services.inference.core.ledger import Card
from services.inference.desk import Standing
from services.inference.engine import Terms
from services.inference.errors import InstanceFailed, QueueFull, QueueTimeout, TimeExceeded
from services.inference.micro_batches import GATHERED_BYTES_MAX, Embedded, MicroBatches
from services.inference.ports import Vectors
from services.inference.work import Seat, Work

WITHIN_S = 20.0
BAD = "bad"
TEXTS_MAX = 8
TERMS = Terms(
    tenant="org-1", priority=Priority.DEFAULT, wait_max_s=WITHIN_S, total_max_s=WITHIN_S, run_max_s=WITHIN_S
)


def order(*texts: str, model: str = "tiny:latest", **more: object) -> Order:
    ask = Embed(model=model, inputs=texts, **more)  # type: ignore[arg-type]
    return Order(ask=ask, model=model, options={}, keep_alive_s=1.0, prompt_token_count=len(texts))


def vector(text: str) -> list[float]:
    return [float(len(text)), float(sum(text.encode()))]


class Instance:
    """Embeds; a text that is `BAD` is refused. Counts a token for each letter."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def embed(self, order: Order, model: str, *, first_token_s: float) -> Vectors:
        assert isinstance(order.ask, Embed)
        texts = order.ask.inputs
        self.asked.append(texts)
        if BAD in texts:
            raise InvalidRequest([Violation("", "is longer than the model's context")])
        return Vectors(
            vectors=[vector(text) for text in texts], prompt_token_count=sum(len(text) for text in texts)
        )


class Desk:
    """Takes work, and does it when told to."""

    def __init__(self) -> None:
        self.instance = Instance()
        self.orders: list[Order] = []
        self.terms: list[Terms] = []
        self.works: dict[int, Work] = {}
        self.abandoned: list[int] = []
        self.refusal: MeshError | None = None
        self.arrived = asyncio.Event()

    async def submit(self, order: Order, terms: Terms, work: Work) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.orders.append(order)
        self.terms.append(terms)
        ticket = len(self.orders)
        self.works[ticket] = work
        self.arrived.set()
        return ticket

    def abandon(self, ticket: int) -> None:
        self.abandoned.append(ticket)
        self.works.pop(ticket, None)

    async def standing(self) -> Standing:
        return Standing(busy={}, queues={})

    async def work(self) -> None:
        """Do one that waits."""
        async with asyncio.timeout(WITHIN_S):
            while not self.works:
                self.arrived.clear()
                await self.arrived.wait()
        ticket = min(self.works)
        work = self.works.pop(ticket)
        seat = Seat(
            name="gpu",
            instance=self.instance,  # type: ignore[arg-type]
            card=Card(name="tiny:latest", digest="sha256:1"),
            first_token_s=1,
        )
        try:
            await work.run(seat)
        except MeshError as error:
            work.fail(error)


@asynccontextmanager
async def batching(*, delay_s: float = 0.01) -> AsyncIterator[tuple[MicroBatches, Desk]]:
    desk = Desk()
    batches = MicroBatches(desk, delay_s=delay_s, texts_max=TEXTS_MAX)
    running = asyncio.create_task(batches.run())
    await asyncio.sleep(0)
    yield batches, desk
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def ask(batches: MicroBatches, *texts: str, terms: Terms = TERMS, **more: Any) -> asyncio.Task[Embedded]:
    return asyncio.create_task(batches.embed(order(*texts, **more), terms))


async def test_what_comes_together_is_sent_together_and_divided_again() -> None:
    async with batching() as (batches, desk):
        calls = [ask(batches, "a", "bb"), ask(batches, "ccc"), ask(batches, "dddd", "e")]
        await desk.work()
        answers = await asyncio.gather(*calls)
        assert desk.instance.asked == [("a", "bb", "ccc", "dddd", "e")]
        assert desk.orders[0].prompt_token_count == 5
        texts = [["a", "bb"], ["ccc"], ["dddd", "e"]]
        assert [answer.vectors for answer in answers] == [[vector(text) for text in some] for some in texts]
        assert [answer.token_counts for answer in answers] == [[1, 2], [3], [4, 1]]
        assert {(answer.model, answer.model_digest) for answer in answers} == {("tiny:latest", "sha256:1")}
        assert desk.abandoned == [1]


@pytest.mark.parametrize(
    ("terms", "more"),
    [
        (replace(TERMS, tenant="org-2"), {}),
        (replace(TERMS, priority=Priority.BATCH), {}),
        (TERMS, {"model": "other:latest"}),
        (TERMS, {"truncate": False}),
        (TERMS, {"dimension_count": 3}),
    ],
)
async def test_what_is_unlike_is_not_sent_together(terms: Terms, more: dict[str, object]) -> None:
    async with batching() as (batches, desk):
        calls = [ask(batches, "a"), ask(batches, "b", terms=terms, **more)]
        await desk.work()
        await desk.work()
        await asyncio.gather(*calls)
        assert sorted(desk.instance.asked) == [("a",), ("b",)]


async def test_a_full_batch_does_not_wait() -> None:
    async with batching(delay_s=WITHIN_S) as (batches, desk):
        calls = [ask(batches, str(number)) for number in range(TEXTS_MAX)]
        await desk.work()
        await asyncio.gather(*calls)
        large = ask(batches, *["x"] * TEXTS_MAX)
        await desk.work()
        await large
        long = ask(batches, "x" * (GATHERED_BYTES_MAX + 1))
        await desk.work()
        await long
        assert [len(texts) for texts in desk.instance.asked] == [TEXTS_MAX, TEXTS_MAX, 1]


async def test_switched_off_every_call_goes_alone() -> None:
    async with batching(delay_s=0) as (batches, desk):
        calls = [ask(batches, "a"), ask(batches, "b")]
        await desk.work()
        await desk.work()
        await asyncio.gather(*calls)
        assert desk.instance.asked == [("a",), ("b",)]


async def test_only_the_guilty_one_fails() -> None:
    async with batching() as (batches, desk):
        calls = [ask(batches, "a"), ask(batches, "ok", BAD), ask(batches, "c")]
        for _ in range(4):
            await desk.work()
        good, bad, other = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(bad, InvalidRequest)
        assert isinstance(good, Embedded)
        assert isinstance(other, Embedded)
        assert (good.vectors, other.vectors) == ([vector("a")], [vector("c")])
        assert desk.instance.asked == [("a", "ok", BAD, "c"), ("a",), ("ok", BAD), ("c",)]


async def test_one_that_is_guilty_alone_is_asked_for_once() -> None:
    async with batching() as (batches, desk):
        call = ask(batches, BAD)
        await desk.work()
        with pytest.raises(InvalidRequest):
            await call
        assert desk.instance.asked == [(BAD,)]


async def test_what_is_nobodys_fault_is_told_to_all_and_not_tried_for_each() -> None:
    async with batching() as (batches, desk):
        desk.refusal = QueueFull(waiting_max=1)
        results = await asyncio.gather(ask(batches, "a"), ask(batches, "b"), return_exceptions=True)
        assert [type(result) for result in results] == [QueueFull, QueueFull]
        assert desk.orders == []
        desk.refusal = None
        calls = [ask(batches, "a"), ask(batches, "b")]
        await desk.arrived.wait()
        desk.works[1].fail(InstanceFailed(instance="gpu"))
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure) for failure in failures] == [InstanceFailed, InstanceFailed]


async def test_a_bug_is_its_callers_alone() -> None:
    async with batching() as (batches, desk):
        call = ask(batches, "a")
        await desk.arrived.wait()
        desk.works[1].fail(RuntimeError("a bug"))
        with pytest.raises(RuntimeError):
            await call
        call = ask(batches, "a")
        await desk.work()
        await call


async def test_one_who_leaves_takes_nobody_along_and_the_last_ends_the_work() -> None:
    async with batching() as (batches, desk):
        leaving, staying = ask(batches, "a"), ask(batches, "b")
        await desk.arrived.wait()
        leaving.cancel()
        await desk.work()
        assert (await staying).vectors == [vector("b")]

        desk.arrived.clear()
        calls = [ask(batches, "a"), ask(batches, "b")]
        await desk.arrived.wait()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        async with asyncio.timeout(WITHIN_S):
            while desk.abandoned != [1, 2]:
                await asyncio.sleep(0)
        assert desk.works == {}


async def test_one_who_leaves_before_it_is_sent_is_not_asked_for() -> None:
    async with batching() as (batches, desk):
        leaving, staying = ask(batches, "a"), ask(batches, "b")
        await asyncio.sleep(0)
        leaving.cancel()
        await desk.work()
        await staying
        assert desk.instance.asked == [("b",)]


async def test_each_has_a_time_of_its_own() -> None:
    short = replace(TERMS, wait_max_s=0.05, total_max_s=0.05)
    async with batching() as (batches, desk):
        hurried, patient = ask(batches, "a", terms=short), ask(batches, "b")
        await desk.arrived.wait()
        assert (desk.terms[0].wait_max_s, desk.terms[0].total_max_s) == (WITHIN_S, WITHIN_S)
        with pytest.raises(QueueTimeout):
            await hurried
        await desk.work()
        await patient

        hurried = ask(batches, "a", terms=short)
        await desk.arrived.wait()
        await asyncio.sleep(0)
        blocked = asyncio.Event()

        async def never(*_: object, **__: object) -> Vectors:
            await blocked.wait()
            raise AssertionError

        desk.instance.embed = never  # type: ignore[method-assign]
        working = asyncio.create_task(desk.work())
        with pytest.raises(TimeExceeded):
            await hurried
        working.cancel()


async def test_at_the_end_nobody_waits_for_ever() -> None:
    async with batching() as (batches, desk):
        call = ask(batches, "a")
        await desk.arrived.wait()
    with pytest.raises(asyncio.CancelledError):
        await call


class Step:
    """What a caller does: comes with texts, after a while leaves or not."""

    def __init__(self, texts: tuple[str, ...], pause: int, leaves_after: int | None) -> None:
        self.texts, self.pause, self.leaves_after = texts, pause, leaves_after

    def __repr__(self) -> str:
        return f"Step({self.texts}, {self.pause}, {self.leaves_after})"


steps = st.builds(
    Step,
    texts=st.lists(st.sampled_from(["a", "bb", "ccc", BAD]), min_size=1, max_size=4).map(tuple),
    pause=st.integers(0, 3),
    leaves_after=st.none() | st.integers(0, 6),
)


@given(st.lists(steps, min_size=1, max_size=8))
@settings(max_examples=60)
def test_whoever_comes_and_goes_everybody_who_stays_gets_their_own(plan: list[Step]) -> None:
    async def scene() -> None:
        async with batching(delay_s=0.0005) as (batches, desk):
            served = asyncio.create_task(serve(desk))
            calls = []
            for step in plan:
                await turns(step.pause)
                calls.append(ask(batches, *step.texts))
                if step.leaves_after is not None:
                    asyncio.get_running_loop().call_later(0.0003 * step.leaves_after, calls[-1].cancel)
            async with asyncio.timeout(WITHIN_S):
                results = await asyncio.gather(*calls, return_exceptions=True)
            served.cancel()
            check(plan, results)
            assert sum(map(len, desk.instance.asked)) <= 2 * sum(len(step.texts) for step in plan)

    asyncio.run(scene())


def check(plan: list[Step], results: list[Embedded | BaseException]) -> None:
    for step, result in zip(plan, results, strict=True):
        match result:
            case asyncio.CancelledError():
                assert step.leaves_after is not None
            case Embedded():
                assert BAD not in step.texts
                assert result.vectors == [vector(text) for text in step.texts]
                assert result.token_counts == [len(text) for text in step.texts]
            case _:
                assert isinstance(result, InvalidRequest)
                assert BAD in step.texts


async def serve(desk: Desk) -> None:
    while True:
        await desk.work()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0.0003)
