"""The load generator counts what happened: against the stubs, a gRPC server, and one that is odd within the rules."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct

from deploy.local.ports import free_ports
from tests.bench.support import load as support
from tests.bench.support.load import LATENESS_P99_MAX_S, Load, LoadError, Outcome, Protocol
from tests.bench.support.stub import Stub, stub
from tests.bench.tools import build
from tests.service.bench_servers import frame_server, grpc_server, leaving, odd, resetting, slow_to_make_room


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    if build.program("load") is None:
        pytest.skip(build.NO_COMPILER)


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with stub() as running:
        yield running


def question(model: str) -> bytes:
    messages = [{"role": "user", "content": "{{number}}"}]
    return json.dumps({"model": model, "messages": messages, "prompt": "hi", "stream": True}).encode()


def ollama(server: Stub, model: str, protocol: Protocol = "ndjson", **more: object) -> Load:
    path = "/api/chat" if protocol == "ndjson" else "/v1/chat/completions"
    return loaded(protocol, server.port, path, question(model), **more)


def loaded(protocol: Protocol, port: int, path: str, body: bytes, **more: object) -> Load:
    """Six streams at three at a time, unless something else is said."""
    values: dict[str, Any] = {"count_max": 6, "seconds": 20.0, **more}
    if "rate_per_s" not in values:
        values.setdefault("concurrency", 3)
    return Load(protocol=protocol, port=port, path=path, body=body, **values)


def is_complete(outcome: Outcome, count: int = 6) -> bool:
    assert outcome.failures == {}, outcome.first_failure
    return (outcome.issued, outcome.completed, outcome.unfinished) == (count, count, 0)


# ---- NDJSON and SSE


@pytest.mark.parametrize(("protocol", "last_count"), [("ndjson", 1), ("sse", 2)])
@pytest.mark.parametrize("model", ["stub-n20-i500-t1000", "stub-n2000-i0", "stub-n40-i0-w100000"])
def test_counts_every_token(server: Stub, protocol: Protocol, last_count: int, model: str) -> None:
    count = int(model.split("-")[1][1:])
    outcome = support.run(ollama(server, model, protocol, expect_token_count=count))
    assert is_complete(outcome)
    assert outcome.tokens == outcome.token_way_s.count == 6 * count
    assert outcome.messages == 6 * (count + last_count)
    assert (outcome.first_token_s.count, outcome.total_s.count) == (6, 6)
    assert outcome.interval_s.count == 6 * (count - 1)
    assert outcome.void is None


@pytest.mark.timed
def test_tells_pacing_as_it_is(server: Stub) -> None:
    outcome = support.run(ollama(server, "stub-n20-i5000-t50000"))
    assert outcome.first_token_s.p50 >= 0.049
    assert outcome.total_s.p50 >= 0.05 + 19 * 0.005 - 0.001
    assert 0 <= outcome.token_way_s.p50 < outcome.first_token_s.p50
    quantiles = [quantile for quantile, _ in outcome.total_s.cdf]
    values = [value for _, value in outcome.total_s.cdf]
    assert quantiles == [index / 100 for index in range(1, 101)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(outcome.total_s.max, rel=0.01)


def test_another_number_of_tokens_is_a_failure(server: Stub) -> None:
    outcome = support.run(ollama(server, "stub-n3", expect_token_count=4))
    assert (outcome.failed, outcome.failures, outcome.completed) == (6, {"short": 6}, 0)
    assert outcome.void == "no stream completed (short)"


@pytest.mark.parametrize("protocol", ["ndjson", "sse", "grpc-web"])
def test_tells_a_status_with_its_words(server: Stub, protocol: Protocol) -> None:
    outcome = support.run(loaded(protocol, server.port, "/nowhere", b"{}"))
    assert outcome.failures == {"HTTP 404": 6}
    assert "no such path" in outcome.first_failure


@pytest.mark.parametrize("protocol", ["ndjson", "grpc"])
def test_tells_when_nobody_listens(protocol: Protocol) -> None:
    outcome = support.run(loaded(protocol, free_ports(1)[0], "/", b"{}"))
    assert outcome.failures == {"connection refused": 6}


@pytest.mark.parametrize("protocol", ["ndjson", "sse"])
def test_a_share_is_cancelled(server: Stub, protocol: Protocol) -> None:
    load = ollama(server, "stub-n20-i500", protocol, cancel_share=0.5, expect_token_count=20, count_max=40)
    outcome = support.run(load)
    planned = [after for _, after in support.plan(replace(load, concurrency=40)) if after]
    assert all(0 < after < 20 for after in planned)
    assert outcome.cancelled == len(planned) > 0
    assert (outcome.completed, outcome.failed) == (40 - len(planned), 0)


def test_what_does_not_end_is_unfinished(server: Stub) -> None:
    load = ollama(server, "stub-n2-i60000000", seconds=0.05, drain_s=0.05, concurrency=2)
    outcome = support.run(load)
    assert (outcome.issued, outcome.unfinished, outcome.completed) == (2, 2, 0)
    assert outcome.void is not None


def test_streams_of_the_warm_up_give_no_samples(server: Stub) -> None:
    outcome = support.run(ollama(server, "stub-n3", warm_up_s=30.0))
    assert is_complete(outcome)
    assert (outcome.tokens, outcome.token_way_s.count, outcome.total_s.count) == (18, 0, 0)


# ---- Times of arrival


def test_the_same_seed_means_the_same_arrivals(server: Stub) -> None:
    def arrivals(seed: int) -> list[tuple[float, int]]:
        load = ollama(server, "stub", rate_per_s=1000.0, seed=seed, count_max=None, seconds=4.0,
                      cancel_share=0.2, expect_token_count=9)  # fmt: skip
        return support.plan(load)

    plan = arrivals(7)
    assert plan == arrivals(7) != arrivals(8)
    times_s = [at_s for at_s, _ in plan]
    assert times_s == sorted(times_s)
    assert len(plan) == pytest.approx(4000, rel=0.1)
    gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    # An exponential law's median is ln 2 of its mean; even arrivals would have it at the mean.
    assert sorted(gaps_s)[len(gaps_s) // 2] == pytest.approx(0.000693, rel=0.15)
    assert sum(after > 0 for _, after in plan) == pytest.approx(800, rel=0.2)


def test_an_open_loop_sends_what_it_planned(server: Stub) -> None:
    load = ollama(server, "stub-n3-i100", rate_per_s=500.0, seconds=0.2, count_max=None)
    outcome = support.run(load)
    assert is_complete(outcome, len(support.plan(load)))
    assert outcome.lateness_s.count == outcome.issued
    assert outcome.is_open_loop


def test_lateness_voids_an_open_loop_only(server: Stub) -> None:
    outcome = support.run(ollama(server, "stub"))
    late = replace_struct(outcome, lateness_s=replace_struct(outcome.lateness_s, p99=2 * LATENESS_P99_MAX_S))
    assert late.void is None
    assert "p99 2.00 ms" in str(replace_struct(late, is_open_loop=True).void)


# ---- gRPC


@pytest.mark.parametrize("connection_count", [1, 3])
async def test_grpc_counts_every_token(connection_count: int) -> None:
    async with grpc_server() as (port, calls):
        load = loaded("grpc", port, "/tokens", b"500", expect_token_count=500, connections=connection_count)
        outcome = await support.run_async(load)
    assert is_complete(outcome)
    assert outcome.tokens == outcome.messages == 3000
    assert calls.requests == [b"500"] * 6


@pytest.mark.timed
async def test_grpc_sends_what_is_to_be_sent() -> None:
    async with grpc_server() as (port, calls):
        load = loaded("grpc", port, "/tokens", b"1 {{number}}", bearer="secret", headers={"X-Mine": "yes"},
                      timeout_s=7.0, number_from=40, authority="edge.example")  # fmt: skip
        assert "secret" not in repr(load)
        assert is_complete(await support.run_async(load))
    assert sorted(calls.requests) == [b"1 %010d" % number for number in range(40, 46)]
    assert all(seen["authorization"] == "Bearer secret" for seen in calls.metadata)
    assert all(seen["x-mine"] == "yes" for seen in calls.metadata)
    assert all(5 < deadline_s <= 7 for deadline_s in calls.deadlines_s)


async def test_grpc_takes_and_sends_huge_messages() -> None:
    async with grpc_server() as (port, calls):
        outcome = await support.run_async(
            loaded("grpc", port, "/huge", b"200000", expect_token_count=200_000)
        )
        assert is_complete(outcome)
        assert outcome.messages == 6
        request = b"2 " + b"x" * 3_000_000
        assert is_complete(
            await support.run_async(loaded("grpc", port, "/tokens", request, expect_token_count=2))
        )
    assert calls.requests[-1] == request


async def test_grpc_failures_go_by_status() -> None:
    async with grpc_server() as (port, _):
        refused = await support.run_async(loaded("grpc", port, "/refuse", b"1"))
        cut = await support.run_async(loaded("grpc", port, "/cut", b"1"))
        short = await support.run_async(loaded("grpc", port, "/tokens", b"2", expect_token_count=3))
        late = await support.run_async(loaded("grpc", port, "/paced", b"9999", timeout_s=0.05, count_max=3))
    assert refused.failures == {"RESOURCE_EXHAUSTED": 6}
    assert "the queue is full" in refused.first_failure
    assert (cut.failures, cut.tokens) == ({"UNAVAILABLE": 6}, 6)
    assert short.failures == {"short": 6}
    assert late.failures == {"DEADLINE_EXCEEDED": 3}


async def test_grpc_cancels() -> None:
    async with grpc_server() as (port, calls):
        load = loaded("grpc", port, "/paced", b"50", cancel_share=0.5, expect_token_count=50, count_max=30)
        outcome = await support.run_async(load)
        assert outcome.cancelled > 0
        assert is_complete(outcome, 30) is False
        assert (outcome.completed + outcome.cancelled, outcome.failed) == (30, 0)
    assert 0 < calls.cancelled_count <= outcome.cancelled


@pytest.mark.timed
async def test_grpc_waits_for_room() -> None:
    """A server that takes two streams at a time is not asked for more, and the wait counts as lateness."""
    async with grpc_server(max_concurrent_streams=2) as (port, _):
        load = loaded("grpc", port, "/paced", b"30", rate_per_s=2000.0, count_max=12)
        outcome = await support.run_async(load)
    assert is_complete(outcome, 12)
    assert outcome.lateness_s.max > 0.03
    assert "late" in str(outcome.void)


async def test_a_refused_stream_is_asked_again_after_a_pause() -> None:
    """Ten refusals at once would be over before a busy server has made room."""
    async with frame_server(slow_to_make_room) as port:
        load = loaded("grpc", port, "/", b"x", expect_token_count=2, concurrency=1)
        assert is_complete(await support.run_async(load))


async def test_http2_within_the_rules_is_understood() -> None:
    """Padding, CONTINUATION, Huffman strings, the dynamic table, pings, unknown frames, a window of 100 bytes."""
    async with frame_server(odd) as port:
        outcome = await support.run_async(
            loaded("grpc", port, "/", b"x" * 90, expect_token_count=2, count_max=40)
        )
    assert is_complete(outcome, 40)
    assert (outcome.tokens, outcome.messages) == (80, 80)


async def test_http2_that_says_goodbye_is_dialled_anew() -> None:
    async with frame_server(leaving) as port:
        load = loaded("grpc", port, "/", b"x", expect_token_count=2, concurrency=1)
        assert is_complete(await support.run_async(load))


async def test_http2_resets_are_failures() -> None:
    async with frame_server(resetting) as port:
        outcome = await support.run_async(loaded("grpc", port, "/", b"x"))
    assert outcome.failures == {"reset REFUSED_STREAM": 6}


# ---- Mistakes


def test_a_mistake_is_told(server: Stub) -> None:
    with pytest.raises(LoadError, match="--rate or --concurrency"):
        support.run(ollama(server, "stub", rate_per_s=1.0, concurrency=1))
    with pytest.raises(LoadError, match="--expect-tokens"):
        support.run(ollama(server, "stub", cancel_share=0.1))


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, server: Stub) -> None:
    monkeypatch.setattr(build, "program", lambda _: None)
    with pytest.raises(LoadError, match="gcc or clang"):
        support.run(ollama(server, "stub"))
