"""A real Envoy before a real inference service of several processes."""

import asyncio
import contextlib
import signal

import grpc
import grpc.aio

from tests.fakes.fake_ollama import FakeOllama
from tests.service import edge_app
from tests.service.inference_app import TINY, WITHIN_S, Call, Service, events_of, preload, until_event
from tests.service.inference_processes import program

STREAMS = 16


async def _through(service: Service) -> None:
    """Return once a call gets through: Envoy knows the keys, and who is well."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                if (await events_of(service.chat()))[-1].HasField("finished"):
                    return
            await asyncio.sleep(0.05)


async def _end(call: Call) -> grpc.StatusCode:
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    code = await call.code()
    assert isinstance(code, grpc.StatusCode)
    return code


async def test_the_edge_deals_out_calls_over_the_processes_and_away_from_one_that_is_gone() -> None:
    gate = asyncio.Event()
    async with FakeOllama(TINY, parallel=64) as fake:
        await preload(fake, TINY)
        async with program(fake.url, instance_slots=64) as running:
            identity = running.services[0].identity
            # The edge finds them as it does beside the service: by the same two settings.
            env = edge_app.settings(
                running.auth_port,
                {},
                OLLAMESH_INFERENCE_PROCESSES="2",
                OLLAMESH_INFERENCE_PORTS=",".join(map(str, running.ports)),
            )
            del env["OLLAMESH_INFERENCE_REPLICAS"]
            async with edge_app.serving(env) as stack:
                edge = Service(channel=stack.channel, identity=identity, stop=asyncio.Event())
                await edge_app.until_healthy(stack, 2)
                await _through(edge)
                for _ in range(STREAMS):
                    fake.script("a", gate, "b")
                calls = [edge.chat(f"{number}") for number in range(STREAMS)]
                for call in calls:
                    await until_event(call, "delta")
                victim, _ = running.workers()
                victim.send_signal(signal.SIGKILL)
                await running.until_gone(victim)
                await _through(edge)  # The other one takes what comes.
                gate.set()
                codes = [await _end(call) for call in calls]
    # Envoy ends what had begun by a reset, which gRPC's clients call INTERNAL.
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}, codes
    assert STREAMS // 8 <= codes.count(grpc.StatusCode.OK) <= STREAMS - STREAMS // 8, codes
