"""Executions as spans: what they waited for and how they ended, and nothing of what they were."""

import asyncio

from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told

from services.common.tracing.tracer import Tracer
from services.sandbox.ports import Stream
from tests.fakes.otlp_collector import Seen
from tests.service.sandbox_executions import ended, events, serving

SECRET = "the cake recipe"
SERVICE = "ollamesh.sandbox.v1.SandboxService"


class Kept:
    """What was recorded."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.tracer = Tracer(lambda span: self.seen.append(Seen("sandbox", Told.FromString(span))))

    def one(self, name: str) -> Seen:
        (found,) = [span for span in self.seen if span.name == name]
        return found

    async def until(self, name: str) -> Seen:
        async with asyncio.timeout(60):
            while not any(span.name == name for span in self.seen):
                await asyncio.sleep(0.005)
        return self.one(name)


async def test_an_execution_is_its_waits_and_its_program() -> None:
    kept = Kept()
    async with serving(tracer=kept.tracer) as world:
        call = world.execute(SECRET)
        jail = await world.jails.next_begun()
        jail.write(Stream.STDOUT, SECRET.encode())
        jail.end(3)
        await events(call)
        rpc = await kept.until(f"{SERVICE}/Execute")
    whole = kept.one("sandbox_execution")
    parts = [kept.one(name) for name in ("queue", "jail", "program")]
    assert whole.parent_id == rpc.span_id
    assert {part.parent_id for part in parts} == {whole.span_id}
    assert whole.attributes.pop("ollamesh.execution.id")
    assert {
        key: whole.attributes[key] for key in whole.attributes if not key.endswith(("_s", "_bytes", ".id"))
    } == {
        "ollamesh.sandbox.engine": "fake",
        "ollamesh.sandbox.profile": "python",
        "ollamesh.sandbox.outcome": "error",
        "process.exit.code": 3,
    }
    assert not whole.failed, "the program did, and not the sandbox"
    times = [
        time for part in parts for time in (part.span.start_time_unix_nano, part.span.end_time_unix_nano)
    ]
    assert times == sorted(times)
    assert SECRET not in "".join(str(span.span) for span in kept.seen)


async def test_one_that_never_got_a_place_only_waited() -> None:
    kept = Kept()
    async with serving(tracer=kept.tracer, running_max=1) as world:
        await world.start("e-1")
        jail = await world.jails.next_begun()
        await world.start("e-2")
        await world.kill("e-2")
        await ended(world, "e-2")
        jail.end(0)
        await ended(world, "e-1")
    (waited,) = [span for span in kept.seen if span.attributes.get("ollamesh.sandbox.outcome") == "cancelled"]
    inner = [span.name for span in kept.seen if span.parent_id == waited.span_id]
    assert inner == ["queue"]
    start = next(span for span in kept.seen if span.span_id == waited.parent_id)
    assert start.name == f"{SERVICE}/StartExecution"
