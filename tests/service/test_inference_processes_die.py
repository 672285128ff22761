"""Processes of a service that die, hang, or cannot start: what ends with them, and what does not."""

import asyncio
import os
import signal
import socket
import subprocess

import grpc
import psutil
import pytest

from services.inference.processes import staff
from tests.fakes.fake_ollama import FakeOllama, Hang
from tests.service.inference_app import (
    TINY,
    asked,
    events_of,
    left,
    preload,
    refused,
    serving,
    until_event,
)
from tests.service.inference_processes import COMMAND, REPOSITORY, START_WITHIN_S, program


async def test_a_worker_that_is_killed_takes_only_its_own_streams_with_it() -> None:
    gate = asyncio.Event()
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        async with program(fake.url, instance_slots=3) as running:
            one, other = running.services
            victim, survivor = running.workers()
            fake.script("a", Hang())
            answering = one.chat()
            await until_event(answering, "delta")
            fake.script("a", gate, "b")
            untouched = other.chat()
            await until_event(untouched, "delta")
            fake.script(Hang())
            reading = one.chat()
            await asked(fake, 3)
            waiting = one.chat()
            await until_event(waiting, "queued")
            counted = await running.counted("ollamesh_rpc_handled_total")

            victim.kill()
            for call in (answering, reading, waiting):
                assert (await refused(call)).code is grpc.StatusCode.UNAVAILABLE
            for recorded in fake.asked("/api/chat")[::2]:
                assert await left(recorded)
            await other.until_fleet(
                lambda fleet: not fleet.queues and [one.busy_slot_count for one in fleet.instances] == [1]
            )
            assert (await events_of(other.chat()))[-1].HasField("finished"), "its slots are free again"
            gate.set()
            assert (await until_event(untouched, "finished")).HasField("finished")

            await running.until_back(0)  # It was started anew, on the same port.
            assert (await events_of(one.chat()))[-1].HasField("finished")
            assert survivor.is_running()
            assert victim.pid not in {worker.pid for worker in running.workers()}
            again = await running.counted("ollamesh_rpc_handled_total")
            assert all(again[labels] >= count for labels, count in counted.items()), "nothing is uncounted"


async def test_nothing_outlives_the_head() -> None:
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        async with program(fake.url) as running:
            fake.script("a", Hang())
            call = running.services[1].chat()
            await until_event(call, "delta")
            workers = running.workers()
            running.head.kill()
            assert (await refused(call)).code is grpc.StatusCode.UNAVAILABLE
            for worker in workers:
                await running.until_gone(worker)
            assert await left(fake.asked("/api/chat")[0])


async def test_a_worker_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else could give its slots back. The head is this very process, so that it can be told to be impatient."""
    monkeypatch.setattr(staff, "SILENT_ROUNDS", 3)
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        async with serving(fake.url, inference_processes=2) as service:
            (place_0,) = (
                child
                for child in psutil.Process().children()
                if child.status() != psutil.STATUS_ZOMBIE  # Of another test.
                and staff.MODULE in child.cmdline()
                and child.cmdline()[-1] == "0"
            )
            fake.script("a", Hang())
            call = service.chat()
            await until_event(call, "delta")
            os.kill(place_0.pid, signal.SIGSTOP)
            assert (await refused(call)).code is grpc.StatusCode.UNAVAILABLE
            assert await left(fake.asked("/api/chat")[0])


async def test_a_service_whose_worker_cannot_start_ends() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = {
            "OLLAMA_HOSTS": "127.0.0.1:1",
            "OLLAMESH_INFERENCE_PROCESSES": "2",
            "OLLAMESH_INFERENCE_PORTS": f"0,{taken.getsockname()[1]}",
            "OLLAMESH_INFERENCE_METRICS_PORT": "0",
            "OLLAMESH_LAME_DUCK_S": "0",
            "OLLAMESH_INSECURE_INSIDE": "true",
        }
        process = await asyncio.create_subprocess_exec(
            *COMMAND, cwd=REPOSITORY, env={**os.environ, **settings}, stderr=subprocess.PIPE
        )
        _, written = await asyncio.wait_for(process.communicate(), START_WITHIN_S)
    assert process.returncode not in {0, None}
    assert "WorkerFailed" in written.decode()
