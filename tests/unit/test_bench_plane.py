"""What the data plane's benchmark concludes from what it measured."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.bench.plane import figures, plots
from tests.bench.plane.ladder import LIMIT_S, STREAMS_MAX, Climb, Rung, climb_by
from tests.bench.plane.memory import Weight
from tests.bench.plane.paced import Rounds, Sample
from tests.bench.plane.relay import Rate
from tests.bench.support.load import Outcome, Spread

NOTHING = Spread(count=0, mean=0, p50=0, p90=0, p99=0, p999=0, max=0, cdf=[])


def spread(p50_s: float) -> Spread:
    return msgspec.structs.replace(NOTHING, count=9, p50=p50_s, cdf=[(0.5, p50_s), (1.0, 2 * p50_s)])


def outcome(first_token_s: float, way_s: float = 0.0) -> Outcome:
    return Outcome(
        protocol="grpc",
        issued=9,
        completed=9,
        failed=0,
        failures={},
        first_failure="",
        cancelled=0,
        unfinished=0,
        wall_s=1,
        cpu_s=0,
        messages=9,
        tokens=100,
        bytes=1,
        tokens_per_s=100,
        lateness_s=NOTHING,
        first_token_s=spread(first_token_s),
        token_way_s=spread(way_s),
        interval_s=NOTHING,
        total_s=NOTHING,
    )


def rounds(**first_tokens_ms: list[float]) -> Rounds:
    found = Rounds()
    for name, values in first_tokens_ms.items():
        samples = [
            Sample(number=number, outcome=outcome(value / 1e3), cpu_s=0.01)
            for number, value in enumerate(values)
            if value > 0  # Otherwise the round is void.
        ]
        found.samples[name.replace("__", ", ").replace("_", "-")] += samples
    return found


def rung_below(limit: int, *, failed_from: int = 10**9) -> Callable[[int], Rung]:
    """Streams hold up to `limit`."""
    return lambda streams: Rung(
        streams=streams,
        interval_p99_s=LIMIT_S / 2 if streams <= limit else 2 * LIMIT_S,
        failed=int(streams >= failed_from),
    )


@pytest.mark.parametrize("limit", [1, 7, 99, 100, 101, 450])
@pytest.mark.parametrize("first", [4, 100])
def test_a_ladder_finds_the_limit_within_a_rung(limit: int, first: int) -> None:
    sustained = climb_by(rung_below(limit), first).sustained
    assert sustained <= limit < max(sustained + 2, sustained * 1.3)


def test_a_ladder_ends_where_the_gateway_has_no_more_slots() -> None:
    assert climb_by(rung_below(10**6), 400).sustained == STREAMS_MAX


def test_streams_that_fail_do_not_hold() -> None:
    assert climb_by(rung_below(10**6, failed_from=1), 4).sustained == 0


def test_what_is_added_is_compared_within_a_round() -> None:
    found = rounds(direct=[1.0, 9.0, 1.0], gateway=[2.0, 10.5, 3.0])
    assert found.added_s("gateway", "direct", lambda one: one.first_token_s) == pytest.approx(0.0015)


def test_a_void_round_is_nobody_s_baseline() -> None:
    found = rounds(direct=[1.0, 0.0, 9.0], gateway=[2.0, 5.0, 10.0])
    assert found.added_s("gateway", "direct", lambda one: one.first_token_s) == pytest.approx(0.001)
    assert not rounds(direct=[1.0, 0.0], gateway=[0.0, 1.0]).has("direct", "gateway")


def test_goals_follow_from_the_peers_of_the_same_run() -> None:
    found = rounds(direct=[1.0], direct__SSE=[1.0], gateway=[1.9], litellm=[13.0], vllm_router=[1.5])
    by_name = {figure.name: figure for figure in figures.paced(found)}
    gateway = by_name["first token, added p50: gateway"]
    assert gateway.goal == pytest.approx(1.0)
    assert gateway.holds
    assert by_name["first token, added p50: gateway, against vllm-router's"].holds is False


def test_without_peers_there_are_no_goals() -> None:
    found = rounds(direct=[1.0], gateway=[2.0])
    assert all(figure.goal is None for figure in figures.paced(found))


def rate(tokens_per_s: float) -> list[Rate]:
    return [Rate(tokens_per_s=tokens_per_s, cpu_per_token_s=1e-6)]


@pytest.mark.parametrize(("slack", "holds"), [(1.0, False), (2.0, True)])
def test_slack_lowers_what_must_be_reached(slack: float, *, holds: bool) -> None:
    found = figures.relay({"gateway": rate(60), "bare-aio": rate(10)}, slack=slack)
    (judged,) = [figure for figure in found if figure.goal is not None]
    assert judged.holds is holds


def test_memory_is_per_thousand_streams() -> None:
    weight = Weight(base_bytes=100_000_000, idle_bytes=9_300_000, streams=300)
    held = {figure.name: figure for figure in figures.memory({"gateway": weight})}
    assert held["1,000 idle streams: gateway"].value == pytest.approx(31)
    assert held["1,000 idle streams: gateway"].holds is False


def test_plots_are_pictures(tmp_path: Path) -> None:
    drawn = [
        *plots.spreads(rounds(direct=[1.0, 2.0], gateway=[3.0, 4.0]), folder=tmp_path),
        plots.ladder({"gateway": [Climb(rungs=[rung_below(9)(8), rung_below(9)(10)])]}, folder=tmp_path),
    ]
    samples = tmp_path / "samples.json"
    row = {"at_s": 1000.0, "rss_bytes": 90_000_000, "anonymous_bytes": 50_000_000}
    samples.write_text(json.dumps({"samples": [row, row | {"at_s": 1060.0}]}))
    memory = plots.memory(samples, folder=tmp_path)
    assert memory is not None
    drawn.append(memory)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert plots.memory(tmp_path / "none.json", folder=tmp_path) is None
