"""Executions of every kind, drawn from a seed: what each may end as is known beforehand."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.service.sandbox_app import Sandbox, reason

MIB = 1 << 20
ENDS_WITHIN_S = (
    30.0  # Each call, whatever is killed meanwhile: its wall limit is a second, and machines are slow.
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    name: str
    code: str
    outcomes: frozenset[str]
    wall_s: float = 10.0
    memory_bytes: int = 0
    is_left: bool = False  # By its caller, after its first output.
    weight: int = 4


def _kind(name: str, code: str, *outcomes: str, **others: float) -> Kind:
    return Kind(name=name, code=code, outcomes=frozenset(outcomes), **others)  # type: ignore[arg-type]


KINDS = (
    _kind("ok", "print(1)", "OK", weight=12),
    _kind("work", "import json; print(len(json.dumps(list(range(20_000)))))", "OK"),
    _kind("error", "1/0", "ERROR"),
    _kind("exit", "import sys; sys.exit(7)", "ERROR"),
    _kind("killed", "import os; os.kill(os.getpid(), 9)", "SIGNALLED"),
    _kind("crash", "import ctypes; ctypes.string_at(0)", "SIGNALLED"),
    _kind("timeout", "while True: pass", "TIMEOUT", wall_s=0.2, weight=2),
    _kind("deaf", "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)", "TIMEOUT", wall_s=0.2, weight=2),
    _kind("oom", "held = []\nwhile True: held.append(b'x' * (1 << 22))", "OOM", memory_bytes=64 * MIB, weight=1),
    _kind("flood", "import os\nwhile True: os.write(1, b'x' * 65536)", "OUTPUT_LIMIT", weight=1),
    _kind("bomb", "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)", "TIMEOUT", wall_s=0.3, weight=1),
    _kind("daemons", "import os, time\nfor _ in range(3):\n    if os.fork() == 0: os.setsid(); time.sleep(60)", "OK", weight=2),
    _kind("files", "for n in range(50): open(f'/tmp/{n}', 'wb').write(bytes(1 << 16))\nprint('x')", "OK", weight=2),
    _kind("result", "[n * n for n in range(100)]", "OK", weight=2),
    _kind("left", "import os, time\nos.fork(); print('up', flush=True); time.sleep(60)", "CANCELLED", is_left=True),
)  # fmt: skip
WEIGHTS = [kind.weight for kind in KINDS]

# What else a call may end as while parts are killed: lost with its jail, or with what the victim was to it.
WHEN_KILLED = frozenset({"SANDBOX_UNAVAILABLE", "SIGNALLED", "OOM"})


@dataclass(slots=True)
class Record:
    """How often each kind ended how."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)

    def wrong(self, *, also: frozenset[str] = frozenset()) -> dict[tuple[str, str], int]:
        """What is not as it has to be."""
        known = {kind.name: kind.outcomes | also for kind in KINDS}
        return {pair: count for pair, count in self.ended.items() if pair[1] not in known[pair[0]]}


async def run(sandbox: Sandbox, kind: Kind) -> str:
    """Run one. Return its outcome, or the reason why it has none."""
    wall = Duration(nanos=int(kind.wall_s % 1 * 1e9), seconds=int(kind.wall_s))
    call = sandbox.call(kind.code, limits=pb.Limits(wall=wall, memory_bytes=kind.memory_bytes))
    outcome = ""
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            async for response in call:
                if kind.is_left and response.event.HasField("stdout"):
                    call.cancel()
                    return "CANCELLED"
                if response.event.HasField("exited"):
                    outcome = pb.Outcome.Name(response.event.exited.outcome).removeprefix("OUTCOME_")
    except TimeoutError:
        call.cancel()
        return "NEVER_ENDED"
    except grpc.aio.AioRpcError as error:
        try:
            return str(reason(error).reason)
        except KeyError:
            return str(error.code().name)
    return outcome or "NO_OUTCOME"


async def drive(sandbox: Sandbox, *, count: int, at_once: int, seed: int) -> Record:
    """Run `count` of them, `at_once` at any time."""
    drawn = iter(random.Random(seed).choices(KINDS, WEIGHTS, k=count))
    record = Record()

    async def caller() -> None:
        for kind in drawn:
            record.ended[kind.name, await run(sandbox, kind)] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(caller())
    return record
