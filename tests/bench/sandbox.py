"""What a jailed program costs: beside a bare interpreter, and beside jails that are begun anew for each call.

The service is a process of its own with its settings as they come, and is called through gRPC with real tokens. A call
is over when its last event, Exited, has come: everything of the jail is dead then. Rounds take turns between the service
and its peers. What is idle is asked at a pace at which the pool is full again; throughput and bursts are not. On a busy machine wall-clock says more about the others, so
processor time is given too: the goal for it is what two processors have at the rate that is the goal.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.support import jail_peers
from tests.bench.support.jail_peers import Peer
from tests.bench.support.report import Figure, percentile, report
from tests.service.sandbox_app import Sandbox, Service, built_root, descendants, serving
from tests.service.sandbox_sessions import Client

ROUNDS = int(os.environ.get("ROUNDS", "5"))
IDLE_CALLS, IDLE_PAUSE_S, PEER_CALLS = 40, 0.06, 4
CLIENTS, CLIENT_CALLS = 4, 40
BURST_COUNT, BURST_PAUSE_S = 32, 1.0
OUTPUT_BYTES, OUTPUT_CALLS = 1_000_000, 5
STARTS_COUNT = 3
WARM_COUNT = 8
READY_POLL_S = 0.005
PROGRAM = "print(1)"
BARE = "a bare interpreter"
WITH_DATA = "import pandas; print(1)"
OUTPUT = f"import sys; sys.stdout.write('x' * {OUTPUT_BYTES})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    p50_ms: float
    p99_ms: float | None
    rate: float
    start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A profile, and a program for it."""

    profile: str
    code: str
    goals: Goals


SUBJECTS = (
    Subject(profile="python", code=PROGRAM, goals=Goals(p50_ms=8, p99_ms=25, rate=80, start_s=3)),
    Subject(profile="python-data", code=WITH_DATA, goals=Goals(p50_ms=15, p99_ms=None, rate=45, start_s=6)),
)


@dataclass(slots=True)
class Found:
    """What was measured of one profile."""

    idle_s: list[float] = field(default_factory=list)
    peers_s: dict[str, list[float]] = field(default_factory=dict)
    session_s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    bursts_s: list[float] = field(default_factory=list)
    output_rates: list[float] = field(default_factory=list)


async def call(client: Sandbox, subject: Subject) -> float:
    """One program, from the call to its end, in seconds."""
    began_s = time.perf_counter()
    printed = b""
    async for response in client.call(subject.code, profile=subject.profile):
        printed += response.event.stdout.data
    took_s = time.perf_counter() - began_s
    assert printed == b"1\n"
    return took_s


async def idle(client: Sandbox, subject: Subject, found: Found) -> None:
    for _ in range(IDLE_CALLS):
        found.idle_s.append(await call(client, subject))
        await asyncio.sleep(IDLE_PAUSE_S)


async def throughput(service: Service, client: Sandbox, subject: Subject, found: Found) -> None:
    async def several() -> None:
        for _ in range(CLIENT_CALLS):
            await call(client, subject)

    began_s, used_s = time.perf_counter(), cpu_s(service)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(several())
    found.rates.append(CLIENTS * CLIENT_CALLS / (time.perf_counter() - began_s))
    await asyncio.sleep(BURST_PAUSE_S)  # Until what was taken is there again.
    found.cpu_s.append((cpu_s(service) - used_s) / (CLIENTS * CLIENT_CALLS))


async def burst(client: Sandbox, subject: Subject, found: Found) -> None:
    await asyncio.sleep(BURST_PAUSE_S)
    found.bursts_s.append(max(await asyncio.gather(*(call(client, subject) for _ in range(BURST_COUNT)))))


async def output(client: Sandbox, subject: Subject, found: Found) -> None:
    """From the program's start to its last byte."""
    for _ in range(OUTPUT_CALLS):
        await asyncio.sleep(IDLE_PAUSE_S)
        began_s = ended_s = 0.0
        got_bytes = 0
        async for response in client.call(OUTPUT, profile=subject.profile):
            if response.event.HasField("started"):
                began_s = time.perf_counter()
            elif response.event.HasField("stdout"):
                ended_s = time.perf_counter()
                got_bytes += len(response.event.stdout.data)
        assert got_bytes == OUTPUT_BYTES
        found.output_rates.append(OUTPUT_BYTES / 1e6 / (ended_s - began_s))


async def session(client: Sandbox, subject: Subject, found: Found) -> None:
    """Calls that go on with what the one before has left."""
    owner = Client(client)
    session_id = await owner.session(profile=subject.profile)
    await owner.run(session_id, "count = 0")
    for number in range(IDLE_CALLS):
        began_s = time.perf_counter()
        ran = await owner.run(session_id, "count += 1; print(count)")
        found.session_s.append(time.perf_counter() - began_s)
        assert ran.stdout == f"{number + 1}\n"
    await owner.ask("DeleteSession", session_id=session_id)


async def beside(name: str, peer: Peer, code: str, found: Found) -> None:
    for _ in range(PEER_CALLS):
        began_s = time.perf_counter()
        await asyncio.to_thread(peer, code)
        found.peers_s.setdefault(name, []).append(time.perf_counter() - began_s)


@asynccontextmanager
async def sandbox(root: Path, profile: str) -> AsyncIterator[tuple[Service, Sandbox]]:
    settings = {"OLLAMESH_SANDBOX_PROFILES": profile, "OLLAMESH_SANDBOX_WARM_COUNT": str(WARM_COUNT)}
    with serving(root, settings=settings) as service:
        async with service.connected() as client:
            async with asyncio.timeout(60):
                while not (await client.capabilities()).engines:
                    await asyncio.sleep(READY_POLL_S)
            yield service, client


async def start_s(root: Path, subject: Subject) -> float:
    """From starting the process to the end of the first program."""
    began_s = time.perf_counter()
    async with sandbox(root, subject.profile) as (_, client):
        await call(client, subject)
        return time.perf_counter() - began_s


def cpu_s(service: Service) -> float:
    """What the service and everything below it has used, with what has ended and was waited for."""
    ticks = 0
    for pid in (service.process.pid, *descendants(service.process.pid)):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(service: Service) -> dict[str, float]:
    """Of the service and everything below it. Shared pages count in RSS as often as they are mapped, in PSS once."""
    totals = dict.fromkeys(("Rss", "Pss"), 0)
    for pid in (service.process.pid, *descendants(service.process.pid)):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in totals:
                totals[name] += int(rest.split()[0])
    return {name: kib * 1024 / 1e6 for name, kib in totals.items()}


async def measure(root: Path, subject: Subject) -> list[Figure]:
    found = Found()
    peers = {BARE: jail_peers.bare, "bubblewrap": jail_peers.bubblewrap(root)}
    if (gvisor := jail_peers.gvisor(root)) is not None:
        peers["gVisor"] = gvisor
    async with sandbox(root, subject.profile) as (service, client):
        await asyncio.sleep(BURST_PAUSE_S)
        memory = memory_mb(service)
        await idle(client, subject, Found())
        for _ in range(ROUNDS):
            await idle(client, subject, found)
            for name, peer in peers.items():
                await beside(name, peer, PROGRAM if name == BARE else subject.code, found)
            await session(client, subject, found)
            await throughput(service, client, subject, found)
            await burst(client, subject, found)
            await output(client, subject, found)
    starts_s = [await start_s(root, subject) for _ in range(STARTS_COUNT)]
    return [*latencies(subject, found), *others(subject, found, memory, starts_s)]


def latencies(subject: Subject, found: Found) -> Iterable[Figure]:
    name, goals = subject.profile, subject.goals
    for percent, goal in ((50, goals.p50_ms), (99, goals.p99_ms)):
        yield Figure(
            name=f"{name}: {subject.code}, p{percent}",
            value=percentile(found.idle_s, percent) * 1e3,
            baseline=percentile(found.peers_s[BARE], percent) * 1e3,
            unit="ms",
            goal=goal,
        )
    for peer, took_s in found.peers_s.items():
        what = PROGRAM if peer == BARE else subject.code
        yield Figure(name=f"{name}: {what} by {peer}, p50", value=median(took_s) * 1e3, unit="ms")


def others(
    subject: Subject, found: Found, memory: dict[str, float], starts_s: list[float]
) -> Iterable[Figure]:
    name, goals = subject.profile, subject.goals

    def least(what: str, value: float, unit: str, goal: float) -> Figure:
        return Figure(name=f"{name}: {what}", value=value, unit=unit, goal=goal, at_least=True)

    def most(what: str, value: float, unit: str, goal: float | None) -> Figure:
        return Figure(name=f"{name}: {what}", value=value, unit=unit, goal=goal)

    yield most("a call in a session, p50", median(found.session_s) * 1e3, "ms", 4)
    yield least(f"executions, {CLIENTS} at once", median(found.rates), "/s", goals.rate)
    yield most("processor time of an execution", median(found.cpu_s) * 1e3, "ms", 2e3 / goals.rate)
    yield most(f"{BURST_COUNT} at once, the last", median(found.bursts_s) * 1e3, "ms", 400)
    yield least("1 MB of output", median(found.output_rates), "MB/s", 50)
    yield most("start to first end", median(starts_s), "s", goals.start_s)
    yield most(f"memory, pool of {WARM_COUNT} (PSS)", memory["Pss"], "MB", 200)
    yield most(f"memory, pool of {WARM_COUNT} (RSS, shared pages many times)", memory["Rss"], "MB", None)


async def main() -> None:
    remarks: list[str] = []
    figures: list[Figure] = []
    for subject in SUBJECTS:
        figures += await measure(built_root(subject.profile), subject)
    if shutil.which("runsc") is None:
        remarks.append("gVisor is left out: there is no `runsc` on the path.")
    report("sandbox", rounds=ROUNDS, figures=figures, remarks=remarks)


if __name__ == "__main__":
    asyncio.run(main())
