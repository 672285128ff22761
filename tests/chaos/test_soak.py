"""The soak in short (`make soak` is the long one): streams that are left leave nothing behind in the gateway."""

from tests.bench.support.leavers import Plan, Way, drive
from tests.bench.support.service import Service, service
from tests.bench.support.stub import stub
from tests.bench.support.watched import Watched

MODEL = "stub-n50-i20000"
CALLERS = 50
WARM_UP_COUNT, COUNT = 2000, 4000
LEFT_WITHIN_S = 0.2  # A fifth of an answer.
WITHIN_S = 30.0
# A call that is forgotten keeps 18 kB, and a completion or a context alone 2 kB. What gRPC itself loses of a call that
# is left at a bad moment, some 100 to 300 bytes (decision 0014), drowns in what an allocator does with its pages.
BYTES_MAX = 1200


async def leave(gateway: Service, *, stream_count: int, seed: int) -> None:
    """Begin so many streams, and leave them."""
    record = await drive(
        Plan(
            address=gateway.address,
            token=gateway.token("soak"),
            model=MODEL,
            stream_s=LEFT_WITHIN_S,
            caller_count=CALLERS,
            leaving_share=1.0,
            seed=seed,
            stream_count_max=stream_count,
        )
    )
    assert record.failed == {}
    assert record.left.keys() == set(Way)
    assert sum(record.left.values()) >= 0.9 * stream_count  # On a slow machine, some are through by then.


async def test_streams_that_are_left_leave_nothing_behind() -> None:
    with stub(f"{MODEL}:latest") as upstream:
        async with service([upstream.url], instance_slots=2 * CALLERS) as gateway:
            watched = Watched(gateway, [upstream.port])
            rest = await watched.sample()
            await leave(gateway, stream_count=WARM_UP_COUNT, seed=1)
            base = await watched.back_at(rest, within_s=WITHIN_S)
            await leave(gateway, stream_count=COUNT, seed=2)
            end = await watched.back_at(base, within_s=WITHIN_S)
    assert all(now <= then for now, then in zip(end.held, base.held, strict=True)), (base, end)
    assert (end.anonymous_bytes - base.anonymous_bytes) / COUNT <= BYTES_MAX
