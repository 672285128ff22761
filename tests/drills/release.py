"""`make drill-release`: new versions come in, go back, and are taken back when they are bad, under load.

Real services behind a real edge, driven as `ollamesh rollout` drives them. Nobody retries but the edge. A healthy
version that comes in by steps and goes back at once is to fail nothing; a bad one (a program that answers as it should
for a while, and then not) is to be taken back by itself: when its refusals can be tried again, nobody notices, and when
they cannot, what fails is what it was given, and no more.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc.aio

from deploy.envoy import endpoints
from deploy.envoy.config import Endpoint
from deploy.local.ports import free_ports
from deploy.rollout import driver
from deploy.rollout.core import Policy
from deploy.rollout.driver import Driver, Place, Record
from tests.chaos.rolling import Member, Mesh, rolling
from tests.chaos.rolling_load import Seen, under_load
from tests.drills.report import Finding, report
from tests.service import edge_app
from tests.service.edge_app import Call, Replica
from tests.stack import Database, running_postgres

CALLERS, READERS, SEED = 4, 2, 1
GOOD_FIRST = 5  # Calls that the bad version answers as it should.
WAIT_S = 60.0
POLICY = Policy(steps=(10, 50, 100), step_s=3.0, calls_min=20, hold_max_s=120.0, slower_ms=10_000)


@dataclass(slots=True)
class Under:
    """A load, and what each phase of the drill does to it."""

    mesh: Mesh
    seen: Seen

    @property
    def place(self) -> Place:
        return Place(folder=self.mesh.stack.folder, admin=self.mesh.stack.admin_url, say=_say)

    async def roll(self, service: str, to: str, steps: tuple[int, ...] = POLICY.steps) -> Record:
        policy = replace(POLICY, steps=steps)
        return await asyncio.to_thread(Driver(self.place, service, to, policy).run)

    async def until_known(self, service: str, port: int) -> None:
        """Envoy has asked the new replica for its health."""
        name = f"cluster.{service}.endpoint.127.0.0.1_{port}.healthy"
        async with asyncio.timeout(WAIT_S):
            while not await self._stat(name):
                await asyncio.sleep(0.1)

    async def _stat(self, name: str) -> bool:
        async with self.mesh.stack.http.get(f"{self.mesh.stack.admin_url}/stats?filter=^{name}$") as answer:
            return (await answer.text()).strip().endswith(": 1")

    def failures_since(self, count: int) -> list[str]:
        return self.seen.failures[count:]


async def run(database: Database) -> list[Finding]:
    async with (
        rolling(database, OLLAMESH_EDGE_DISCOVERY="files") as mesh,
        under_load(mesh, seed=SEED, callers=CALLERS, readers=READERS) as load,
    ):
        seen = load.seen
        under = Under(mesh, seen)
        findings = [
            finding for service in ("inference", "agent") for finding in await _healthy(under, service)
        ]
        for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
            findings += await _bad(under, code)
    return [
        Finding(name="unary calls", value=seen.call_count),
        Finding(name="streams", value=seen.stream_count),
        *findings,
    ]


async def _healthy(under: Under, service: str) -> list[Finding]:
    before = len(under.seen.failures)
    async with _green(under, service):
        there = await under.roll(service, "green")
        back = await under.roll(service, "blue", (100,))
        endpoints.weigh(under.mesh.stack.folder, service, green_percent=0)
    failures = under.failures_since(before)
    _tell(failures)
    done = there.state == back.state == driver.FINISHED
    return [
        Finding(name=f"{service}: switched and back", value=float(done), goal="= 1", holds=done),
        Finding(name=f"{service}: failed by that", value=len(failures), goal="= 0", holds=not failures),
    ]


async def _bad(under: Under, code: grpc.StatusCode) -> list[Finding]:
    before = len(under.seen.failures)
    async with edge_app.replica() as bad:
        bad.echo.reply = _going_bad(bad, code)
        endpoints.add(under.mesh.stack.folder, "agent", Endpoint("127.0.0.1", bad.port), to="green")
        await under.until_known("agent", bad.port)
        begun_s = time.monotonic()
        record = await under.roll("agent", "green")
        took_s = time.monotonic() - begun_s
        await _until_left_alone(bad)
        endpoints.remove(under.mesh.stack.folder, "agent", Endpoint("127.0.0.1", bad.port))
        failures, given = under.failures_since(before), len(bad.echo.calls) - GOOD_FIRST
    back = record.state == driver.ROLLED_BACK
    can_retry = code is grpc.StatusCode.UNAVAILABLE
    fit = (
        not failures
        if can_retry
        else len(failures) <= given and all("INTERNAL bad" in one for one in failures)
    )
    name = f"bad version ({code.name})"
    return [
        Finding(name=f"{name}: taken back", value=float(back), goal="= 1", holds=back),
        Finding(name=f"{name}: after", value=took_s, unit="s"),
        Finding(name=f"{name}: calls it spoiled", value=given),
        Finding(name=f"{name}: callers noticed", value=len(failures), goal="= 0" if can_retry else f"<= {given}", holds=fit),
    ]  # fmt: skip


def _going_bad(bad: Replica, code: grpc.StatusCode) -> edge_app.Reply:
    async def reply(call: Call) -> None:
        if len(bad.echo.calls) > GOOD_FIRST:
            await call.context.abort(code, "bad version")
        await call.write(b"")  # An empty list.

    return reply


async def _until_left_alone(bad: Replica) -> None:
    async with asyncio.timeout(WAIT_S):
        count = -1
        while count != len(bad.echo.calls):
            count = len(bad.echo.calls)
            await asyncio.sleep(1)


@asynccontextmanager
async def _green(under: Under, service: str) -> AsyncIterator[None]:
    """A second set of a service: one more process, that of the new version."""
    first, (port, metrics_port) = under.mesh.members[service][0], free_ports(2)
    prefix = f"OLLAMESH_{service.upper()}"
    own = {f"{prefix}_PORT": str(port), f"{prefix}_METRICS_PORT": str(metrics_port)}
    member, place = Member(service, port, {**first.environment, **own}), Endpoint("127.0.0.1", port)
    await member.start()
    try:
        endpoints.add(under.mesh.stack.folder, service, place, to="green")
        await under.until_known(service, port)
        yield
        endpoints.remove(under.mesh.stack.folder, service, place)
    finally:
        await member.end()  # In good order: what it has begun, it finishes.


def _tell(failures: list[str]) -> None:
    for failure in failures[:5]:
        _say(failure)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with running_postgres() as server, server.fresh() as database:
        return report("drill-release", asyncio.run(run(database)))


if __name__ == "__main__":
    sys.exit(main())
