"""How late the event loop runs what is due, and how much it has in hand.

Every answer of a service goes through one loop: what holds it up holds up every stream. One timer tells, and it
costs next to nothing: four wake-ups a second, whatever the traffic.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, Histogram

EVERY_S = 0.25
# From what a timer is late anyway (libuv counts in milliseconds) to what a reader takes for a failure.
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@contextmanager
def loop_watched(registry: CollectorRegistry, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Measure the running loop for as long as the block lasts.

    A loop that is blocked for longer than `every_s` is late once, by all of it.
    """
    loop = asyncio.get_running_loop()
    lag = Histogram(
        "ollamesh_event_loop_lag_seconds",
        "How late the event loop ran what was due",
        buckets=BUCKETS_S,
        registry=registry,
    )
    tasks = Gauge("ollamesh_event_loop_tasks", "Tasks that are not done", registry=registry)
    tasks.set_function(lambda: len(asyncio.all_tasks(loop)))  # Counted when asked for, in the asker's thread.

    timer: asyncio.TimerHandle

    def tick(due_s: float) -> None:
        nonlocal timer
        lag.observe(max(0.0, time.monotonic() - due_s))
        timer = again()

    def again() -> asyncio.TimerHandle:
        # The system's clock: the loop's own stands still while it runs what is due.
        return loop.call_later(every_s, tick, time.monotonic() + every_s)

    timer = again()
    try:
        yield
    finally:
        timer.cancel()
