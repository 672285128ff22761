"""`make drill-rollback`: every replica goes back to the code of the release before, under load, and forward again.

The schema stays as the new code made it. Half-way through, old and new run side by side. Nobody retries; no unary call
and no stream is to fail, and what was accepted before, by whichever code, is to be there after.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub

if TYPE_CHECKING:  # Known to type checkers only.
    from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceAsyncStub

from tests.chaos.rolling import ROOT, Mesh, rolling
from tests.chaos.rolling_load import Identity, under_load
from tests.drills.old_code import NoOldCodeError, Old, extract
from tests.drills.report import Finding, report
from tests.stack import Database, running_postgres

CALLERS, READERS, SEED = 4, 2, 1
TIMEOUT_S = 60.0


@dataclass(slots=True)
class Threads:
    """What was accepted: each is looked for again after each phase."""

    mesh: Mesh
    who: Identity
    ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def keep_creating(self, stop: asyncio.Event) -> None:
        async with self._stub() as stub:
            while not stop.is_set():
                try:
                    made = await stub.CreateThread(
                        pb.CreateThreadRequest(), metadata=self.who.metadata, timeout=TIMEOUT_S
                    )
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"CreateThread: {error.code()} {error.details()}")
                else:
                    self.ids.append(made.thread.thread_id)
                await asyncio.sleep(0.02)

    async def missing(self) -> int:
        count = 0
        async with self._stub() as stub:
            for thread_id in list(self.ids):
                request = pb.GetThreadRequest(thread_id=thread_id)
                try:
                    await stub.GetThread(request, metadata=self.who.metadata, timeout=TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"GetThread: {error.code()} {error.details()}")
                    count += 1
        return count

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator["AgentServiceAsyncStub"]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.mesh.stack.port}", options) as channel:
            yield AgentServiceStub(channel)


async def run(database: Database, old: Old) -> list[Finding]:
    async with (
        rolling(database) as mesh,
        under_load(mesh, seed=SEED, callers=CALLERS, readers=READERS) as load,
    ):
        seen, threads, missing = load.seen, Threads(mesh, load.who), {}
        load.tasks.create_task(threads.keep_creating(load.stop))
        for phase, root in (("back", old.folder), ("forward", ROOT)):
            await _all_to(mesh, root)
            missing[phase] = await threads.missing()
    for failure in (*seen.failures, *threads.failures)[:5]:
        sys.stderr.write(f"{failure}\n")
    failed = len(seen.failures) + len(threads.failures)
    return [
        Finding(name="unary calls", value=seen.call_count + len(threads.ids)),
        Finding(name="streams", value=seen.stream_count),
        Finding(name="failed", value=failed, goal="= 0", holds=failed == 0),
        Finding(name="threads created", value=len(threads.ids)),
        *(
            Finding(name=f"missing after going {phase}", value=count, goal="= 0", holds=count == 0)
            for phase, count in missing.items()
        ),
    ]


async def _all_to(mesh: Mesh, root: Path) -> None:
    """One replica after the other: so each service is old and new at once for a while."""
    for members in mesh.members.values():
        for member in members:
            member.root = root
            await member.restart()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ollamesh-test-") as folder:
        try:
            old = extract(Path(folder))
        except NoOldCodeError as error:
            sys.stdout.write(f"drill-rollback: left out, since {error}\n")
            return 0
        sys.stdout.write(f"from {old.commit[:12]} and back\n")
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        with running_postgres() as server, server.fresh() as database:
            return report("drill-rollback", asyncio.run(run(database, old)))


if __name__ == "__main__":
    sys.exit(main())
