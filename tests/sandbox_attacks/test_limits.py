"""Property: of what is asked for, no more than the cap is granted, it is told, and it is what the kernel enforces.

For each example, limits are drawn from a seed, some of them above the cap. For each limit, a program runs into it alone and
says how far it got.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Mapping

import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from services.sandbox.core.limits import FILES_BYTES_MIN, MEMORY_BYTES_MIN, MIB, Limits
from tests.sandbox_attacks.place import Place
from tests.service.sandbox_app import Ran, Sandbox

ENGINES = ("ns",)
CAP = Limits()  # The service's defaults.
EXAMPLES = 3
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SLACK_BYTES = 64 << 10  # Folders, and the last page of a file.

PROCESSES = """
import os, time
count = 1
try:
    while True:
        if os.fork() == 0: time.sleep(60)
        count += 1
except OSError: pass
print(count, flush=True)
os._exit(0)
"""
FILES = """
import os
total = 0
try:
    for number in range(10_000):
        file = os.open(f"/{('work', 'tmp', 'dev/shm')[number % 3]}/{number}", os.O_WRONLY | os.O_CREAT)
        for _ in range(16): total += os.write(file, bytes(65536))
except OSError: pass
print(total)
"""
OUTPUT = "import os\nfor _ in range({count}): os.write(1, b'x' * 4096)"
MEMORY = "held = []\nwhile True: held.append(b'x' * (1 << 20))"
BUSY = "while True: pass"


@pytest.fixture
async def sandbox(place: Place) -> AsyncIterator[Sandbox]:
    async with place.service.ready() as client:
        yield client


def drawn(seed: int) -> Mapping[str, float]:
    draw = random.Random(seed)
    return {
        "wall_s": draw.choice((draw.uniform(0.2, 1.0), 3600)),
        "cpu_s": draw.uniform(0.1, 0.4),
        "memory_bytes": draw.choice((draw.randrange(MEMORY_BYTES_MIN, 160 * MIB), 1 << 40, 4096)),
        "process_count": draw.choice((draw.randint(2, 64), 100_000)),
        "output_bytes": draw.choice((draw.randint(1, MIB), 1 << 30)),
        "files_bytes": draw.choice((draw.randrange(FILES_BYTES_MIN, 64 * MIB), 1 << 40)),
    }


def seconds(duration: Duration) -> float:
    return float(duration.ToTimedelta().total_seconds())


def duration(value_s: float) -> Duration:
    made = Duration()
    made.FromMicroseconds(round(value_s * 1e6))
    return made


def started(ran: Ran) -> pb.Limits:
    return next(event.started.limits for event in ran.events if event.HasField("started"))


async def holds_wall(sandbox: Sandbox, wall_s: float) -> None:
    if wall_s > CAP.wall_s:
        ran = await sandbox.run("0", limits=pb.Limits(wall=duration(wall_s)))
        assert seconds(started(ran).wall) == CAP.wall_s
        return
    ran = await sandbox.run(BUSY, limits=pb.Limits(wall=duration(wall_s)))
    assert (ran.outcome, list(ran.exited.limits_reached)) == ("TIMEOUT", [pb.LIMIT_KIND_WALL])
    assert wall_s <= seconds(ran.exited.usage.wall) < wall_s + 30


async def holds_cpu(sandbox: Sandbox, cpu_s: float) -> None:
    ran = await sandbox.run(f"import os\nos.fork()\n{BUSY}", limits=pb.Limits(cpu=duration(cpu_s)))
    assert (ran.outcome, list(ran.exited.limits_reached)) == ("TIMEOUT", [pb.LIMIT_KIND_CPU])
    assert cpu_s <= seconds(ran.exited.usage.cpu) + 0.02  # A tick of the clock that counts it.
    assert seconds(ran.exited.usage.cpu) < cpu_s + 1


async def holds_memory(sandbox: Sandbox, memory_bytes: int) -> None:
    granted_bytes = max(min(memory_bytes, CAP.memory_bytes), MEMORY_BYTES_MIN)
    ran = await sandbox.run(MEMORY, limits=pb.Limits(memory_bytes=memory_bytes))
    assert started(ran).memory_bytes == granted_bytes
    assert (ran.outcome, list(ran.exited.limits_reached)) == ("OOM", [pb.LIMIT_KIND_MEMORY])
    peak_bytes = ran.exited.usage.peak_memory_bytes
    exact = "memory_bytes" in (await sandbox.capabilities()).engines[0].enforced_limits
    assert granted_bytes / 2 < peak_bytes <= (granted_bytes if exact else granted_bytes + 256 * MIB)


async def holds_processes(sandbox: Sandbox, process_count: int) -> None:
    granted = min(process_count, CAP.process_count)
    ran = await sandbox.run(PROCESSES, limits=pb.Limits(process_count=process_count))
    assert started(ran).process_count == granted
    assert (ran.outcome, int(ran.stdout)) == ("OK", granted)


async def holds_files(sandbox: Sandbox, files_bytes: int) -> None:
    granted_bytes = min(files_bytes, CAP.files_bytes)
    ran = await sandbox.run(FILES, limits=pb.Limits(files_bytes=files_bytes))
    assert started(ran).files_bytes == granted_bytes
    assert ran.outcome == "OK"
    whole_bytes = -(-granted_bytes // PAGE_BYTES) * PAGE_BYTES  # Files are made of pages.
    assert granted_bytes - SLACK_BYTES <= int(ran.stdout) <= whole_bytes


async def holds_output(sandbox: Sandbox, output_bytes: int) -> None:
    granted_bytes = min(output_bytes, CAP.output_bytes)
    code = OUTPUT.format(count=2 + 2 * granted_bytes // 4096)
    ran = await sandbox.run(code, limits=pb.Limits(output_bytes=output_bytes))
    assert started(ran).output_bytes == granted_bytes
    assert len(ran.stdout) == granted_bytes
    assert ran.exited.stdout_truncated
    assert ran.outcome in {
        "OK",
        "OUTPUT_LIMIT",
    }  # The latter if little was allowed, and that passed many times.


@pytest.mark.parametrize("seed", range(EXAMPLES))
async def test_what_is_granted_is_what_holds(sandbox: Sandbox, seed: int) -> None:
    asked = drawn(seed)
    try:
        await holds_wall(sandbox, asked["wall_s"])
        await holds_cpu(sandbox, asked["cpu_s"])
        await holds_memory(sandbox, int(asked["memory_bytes"]))
        await holds_processes(sandbox, int(asked["process_count"]))
        await holds_files(sandbox, int(asked["files_bytes"]))
        await holds_output(sandbox, int(asked["output_bytes"]))
    except AssertionError as error:
        raise AssertionError(f"asked for {json.dumps(asked)}") from error


async def test_each_execution_has_its_own(sandbox: Sandbox) -> None:
    """Limits of different executions at once do not mix."""
    counts = (3, 9, 27, 64)
    runs = await asyncio.gather(
        *(sandbox.run(PROCESSES, limits=pb.Limits(process_count=count)) for count in counts)
    )
    assert [int(ran.stdout) for ran in runs] == list(counts)
