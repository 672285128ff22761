"""The event loop's lag, measured on loops that are blocked on purpose."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from prometheus_client import CollectorRegistry

from services.common.loop_lag import loop_watched

BLOCKED_S = 0.2
WITHIN_S = 20.0


def value(registry: CollectorRegistry, name: str) -> float:
    found = registry.get_sample_value(f"ollamesh_event_loop_{name}")
    assert found is not None
    return found


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.001)


async def _blocked(registry: CollectorRegistry) -> None:
    with loop_watched(registry, every_s=0.01):
        time.sleep(0.01 + BLOCKED_S)  # noqa: ASYNC251 - The mistake that it is to show.
        await until(lambda: value(registry, "lag_seconds_count") >= 1)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_blocked_loop_is_late_by_as_much(run: Callable[[object], object]) -> None:
    registry = CollectorRegistry()
    run(_blocked(registry))
    assert value(registry, "lag_seconds_sum") >= BLOCKED_S - 0.002  # Timers count in milliseconds.


@pytest.fixture
async def registry() -> AsyncIterator[CollectorRegistry]:
    registry = CollectorRegistry()
    with loop_watched(registry, every_s=0.001):
        yield registry


async def test_it_goes_on_measuring(registry: CollectorRegistry) -> None:
    await until(lambda: value(registry, "lag_seconds_count") >= 5)


async def test_it_ends_with_its_block() -> None:
    registry = CollectorRegistry()
    with loop_watched(registry, every_s=0.001):
        await until(lambda: value(registry, "lag_seconds_count") >= 1)
    seen = value(registry, "lag_seconds_count")
    await asyncio.sleep(0.02)  # Long enough for a timer that was left behind.
    assert value(registry, "lag_seconds_count") == seen


async def test_tasks_are_counted_as_they_are_now(registry: CollectorRegistry) -> None:
    base = value(registry, "tasks")
    waiting = asyncio.create_task(asyncio.Event().wait())
    assert value(registry, "tasks") == base + 1
    waiting.cancel()
    await asyncio.wait([waiting])
    assert value(registry, "tasks") == base
