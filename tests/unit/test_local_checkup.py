"""What the doctor says of a stack that runs: quiet while all is well, and a sentence and a page when it is not."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from deploy.local import checkup
from deploy.local.checkup import Database
from deploy.local.finding import Check

ROOT = Path(__file__).parents[2]
WELL = Database(connection_count=20, connection_count_max=100, blocked_count=0, transaction_s=1.0)


def _ill(checks: Iterable[Check]) -> list[Check]:
    found = [check for check in checks if not check.ok]
    for check in found:  # Whoever is told is told where to read on.
        assert (ROOT / check.mend.removeprefix("less ")).is_file()
    return found


def test_a_part_that_has_grown_is_named() -> None:
    assert checkup.memory({"auth": 90_000_000, "runtime": 9_000_000_000}).ok
    [found] = _ill([checkup.memory({"auth": 2_100_000_000, "runtime": 9_000_000_000})])
    assert found.finding == "auth holds 2.1 GB"


def test_requests_that_wait_and_loops_that_lag_are_found() -> None:
    quiet = {"ollamesh_queue_oldest_seconds": 29.0}
    lag = {"ollamesh_event_loop_lag_seconds_sum": 9.0, "ollamesh_event_loop_lag_seconds_count": 100.0}
    assert not _ill(checkup.latency({"inference": quiet, "auth": lag}))
    late = {"ollamesh_event_loop_lag_seconds_sum": 11.0, "ollamesh_event_loop_lag_seconds_count": 100.0}
    waiting = {"ollamesh_queue_oldest_seconds": 31.0}
    pool = {"ollamesh_postgres_pool_waiting": 2.0}
    found = _ill(checkup.latency({"inference": waiting, "agent": late, "auth": pool}))
    assert [check.name for check in found] == ["queue", "loop", "pool"]
    assert "agent is 0.11 s late" in found[1].finding


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (
            Database(connection_count=81, connection_count_max=100, blocked_count=0, transaction_s=0),
            "connections",
        ),
        (Database(connection_count=9, connection_count_max=100, blocked_count=1, transaction_s=0), "locks"),
        (
            Database(connection_count=9, connection_count_max=100, blocked_count=0, transaction_s=301),
            "transactions",
        ),
    ],
)
def test_a_database_in_trouble_is_found(seen: Database, name: str) -> None:
    assert [check.name for check in _ill(checkup.database(seen))] == [name]
    assert not _ill(checkup.database(WELL))


def test_a_database_that_is_away_is_no_finding_of_its_own() -> None:
    assert checkup.ask_database("postgresql://nobody@127.0.0.1:1/none") is None


def test_a_service_that_is_away_is_left_out() -> None:
    assert checkup.ask({"auth": "http://127.0.0.1:1/metrics"}) == {}


def test_the_clock_is_looked_at() -> None:
    assert checkup.clock().ok
