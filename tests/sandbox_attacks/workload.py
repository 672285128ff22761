"""Executions of every kind, drawn from a seed: what each may end as is known beforehand."""

import asyncio
import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from services.common.grpc.client import held
from tests.service.sandbox_app import Sandbox, reason
from tests.service.sandbox_sessions import Client

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
    in_session: bool = (
        False  # Of its own, between a program that sets a variable and a file that is had again.
    )
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
    _kind("session", "print(kept)", "OK", in_session=True, weight=2),
    _kind("session-lost", "import os; os._exit(7)", "ERROR", in_session=True, weight=1),
    _kind("session-timeout", "while True: pass", "TIMEOUT", in_session=True, wall_s=0.2, weight=1),
)  # fmt: skip
SESSIONS_AT_ONCE = 3  # A user may have four.
WEIGHTS = [kind.weight for kind in KINDS]

# What else a call may end as while parts are killed: lost with its jail, or with what the victim was to it.
# In a session, the program before it may have been hit, and its variables lost; it is busy while it is restarted.
WHEN_KILLED = frozenset(
    {
        "SANDBOX_UNAVAILABLE",
        "SIGNALLED",
        "OOM",
        "ERROR",
        "SESSION_NOT_FOUND",
        "SESSION_BUSY",
        "FILE_NOT_FOUND",
    }
)


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
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            return await (_in_session if kind.in_session else _alone)(sandbox, kind)
    except TimeoutError:
        return "NEVER_ENDED"
    except grpc.aio.AioRpcError as error:
        try:
            return str(reason(error).reason)
        except KeyError:
            return str(error.code().name)


async def _alone(sandbox: Sandbox, kind: Kind) -> str:
    limits = pb.Limits(wall=_duration(kind.wall_s), memory_bytes=kind.memory_bytes)
    with held(sandbox.call(kind.code, limits=limits)) as call:
        async for response in call:
            if kind.is_left and response.event.HasField("stdout"):
                return "CANCELLED"
            if response.event.HasField("exited"):
                return _outcome(response.event.exited)
    return "NO_OUTCOME"


async def _in_session(sandbox: Sandbox, kind: Kind) -> str:
    client = Client(sandbox)
    session_id = await client.session()
    try:
        await client.run(session_id, "kept = 7")
        await client.put(session_id, "file", b"kept")
        ran = await client.run(session_id, kind.code, limits=pb.Limits(wall=_duration(kind.wall_s)))
        if not ran.exited.session_files_lost:
            await client.get(session_id, "file")
        return _outcome(ran.exited)
    finally:
        await client.ask("DeleteSession", session_id=session_id)


def _outcome(exited: pb.ExecutionEvent.Exited) -> str:
    return pb.Outcome.Name(exited.outcome).removeprefix("OUTCOME_")


def _duration(value_s: float) -> Duration:
    return Duration(seconds=int(value_s), nanos=int(value_s % 1 * 1e9))


async def drive(sandbox: Sandbox, *, count: int, at_once: int, seed: int) -> Record:
    """Run `count` of them, `at_once` at any time."""
    drawn = iter(random.Random(seed).choices(KINDS, WEIGHTS, k=count))
    record = Record()
    sessions = asyncio.Semaphore(SESSIONS_AT_ONCE)

    async def caller() -> None:
        for kind in drawn:
            async with sessions if kind.in_session else nullcontext():
                record.ended[kind.name, await run(sandbox, kind)] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(caller())
    return record
