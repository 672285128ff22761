"""Every test may ask for a real PostgreSQL, Redis or whole stack by naming its fixture."""

import gc
import os
import random
import signal
from collections.abc import Iterator
from itertools import cycle

import hypothesis
import pytest

from deploy.local import ports
from tests.stack import database, mesh, module_database, postgres_server, redis_server, redis_url

__all__ = ["database", "mesh", "module_database", "postgres_server", "redis_server", "redis_url"]

# How long an example takes says nothing here: machines are shared, and slow at times.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

# Processes that test at the same time take their ports from different ranges.
WORKERS_MAX = 8
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS_MAX
_own = ports.FREE_PORTS[_worker::WORKERS_MAX]
ports._candidates = cycle(random.sample(_own, len(_own)))

# A shell starts its background jobs with Ctrl-C ignored, and what they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The first stack on a machine fetches and converts the models.
FIRST_STACK_WITHIN_S = 600
# What holds a promise in seconds may fail because of what else the machine does, but not three times in a row.
TIMED_RERUNS = 2


def pytest_collection_finish() -> None:
    _spare_the_collector()


@pytest.fixture(scope="module", autouse=True)
def _collected_before_the_next() -> Iterator[None]:
    yield
    _spare_the_collector()


def _spare_the_collector() -> None:
    """Keep full collections short, whatever ten thousand tests have left.

    They grow to seconds else, in which every loop of the process stands still and every time limit in it passes.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timed") is not None:
            item.add_marker(pytest.mark.flaky(reruns=TIMED_RERUNS))
        asks_for_a_stack = isinstance(item, pytest.Function) and "mesh" in item.fixturenames
        if asks_for_a_stack and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(FIRST_STACK_WITHIN_S))
