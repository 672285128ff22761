"""What sessions survive, and what is left when they do not."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.service.sandbox_app import TIMEOUT_S, Service, built_root, descendants, reason
from tests.service.sandbox_sessions import ready, until

SLEEP = "print('up', flush=True)\nimport time\ntime.sleep(3600)"


def dead(pids: list[int]) -> bool:
    return not any(Path("/proc", str(pid)).exists() for pid in pids)


@pytest.mark.parametrize("runs", [False, True], ids=["idle", "busy"])
async def test_the_end_of_the_engine_is_told(*, runs: bool) -> None:
    async with ready(built_root()) as (service, client):
        session_id = await client.session()
        await client.run(session_id, "x = 42")
        call = await client.begun(session_id, SLEEP) if runs else None
        os.kill(descendants(service.process.pid)[0], signal.SIGKILL)  # bubblewrap, and all below it.
        if call is not None:
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                async for _ in call:
                    pass
            assert reason(lost.value).reason == "SANDBOX_UNAVAILABLE"
        async with asyncio.timeout(TIMEOUT_S):
            while (await client.described(session_id)).restart_count == 0:
                await asyncio.sleep(0.01)
        await client.idle(session_id)
        ran = await client.run(session_id, "print('x' in globals())")
        assert ran.stdout == "False\n"
        assert ran.events[0].started.session_restarted
        assert not (await client.run(session_id, "1")).events[0].started.session_restarted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
async def test_nothing_of_a_session_survives_the_service(number: signal.Signals) -> None:
    async with ready(built_root()) as (service, client):
        await client.session()
        await client.begun(await client.session(), SLEEP)
        below = descendants(service.process.pid)
        service.process.send_signal(number)
        await asyncio.to_thread(service.process.wait, TIMEOUT_S)
        await until(lambda: dead(below))


async def test_sessions_come_and_go_and_leave_no_trace() -> None:
    async with ready(built_root(), OLLAMESH_SANDBOX_SESSIONS_MAX="8") as (service, client):
        limits = pb.Limits(memory_bytes=64 << 20)

        async def one(code: str) -> None:
            session_id = await client.session(limits=limits)
            await client.put(session_id, "a", b"1")
            await client.run(session_id, code)
            await client.ask("DeleteSession", session_id=session_id)

        async def settled() -> tuple[int, int]:
            """Descriptors and processes, once they do not change any more."""
            before, now = (-1, -1), (0, 0)
            async with asyncio.timeout(TIMEOUT_S):
                while before != now:
                    await asyncio.sleep(0.5)
                    open_count = open_files_count(service)
                    before, now = now, (open_count, len(descendants(service.process.pid)))
            return now

        codes = ["print(1)", "1/0", "import os; os.abort()", "import os; os.fork()"]
        await asyncio.gather(*(one(code) for code in codes))
        before = await settled()
        for _ in range(6):
            await asyncio.gather(*(one(code) for code in codes))
        assert await settled() == before


def open_files_count(service: Service) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))
