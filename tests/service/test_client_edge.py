"""The client through a real Envoy, before a real inference service of two processes of which one is killed."""

import asyncio
import signal
from typing import Any

from ollamesh.client import CallError, Client, StaticToken, chats

from tests.fakes.fake_ollama import FakeOllama
from tests.service import edge_app
from tests.service.inference_app import TINY, WITHIN_S, preload
from tests.service.inference_processes import Program, program
from tests.service.streams_app import SECRETS

STREAMS = 8
WRITE_EVERY_S = 0.05
STEADY = chats.Options(temperature=0)


class Reader:
    """Reads a chat, and knows how far it is."""

    def __init__(self, client: Client, text: str) -> None:
        self.events: list[chats.Event] = []
        self.error: CallError | None = None
        self.half = asyncio.Event()
        self.task = asyncio.create_task(self._read(client, text))

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, chats.Delta))

    async def _read(self, client: Client, text: str) -> None:
        try:
            async for event in client.chat("tiny", text, options=STEADY):
                self.events.append(event)
                if isinstance(event, chats.Delta):
                    self.half.set()
        except CallError as error:
            self.error = error


def edge_settings(running: Program) -> dict[str, str]:
    return edge_app.settings(
        running.auth_port, {"inference": running.ports}, OLLAMESH_INFERENCE_PROCESSES="1"
    )


async def until_heard(client: Client) -> None:
    """Return once a call gets through: Envoy knows the keys, and who is well."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await client.fleet()
            except CallError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_streams_go_on_when_a_process_behind_the_edge_is_killed(redis_url: str) -> None:
    gates = [asyncio.Event() for _ in range(STREAMS)]
    settings: dict[str, Any] = {
        "REDIS_URL": redis_url,
        "answer_cache": False,
        "stream_write_every_s": WRITE_EVERY_S,
        **SECRETS,
    }
    async with FakeOllama(TINY, parallel=64) as fake:
        await preload(fake, TINY)
        async with program(fake.url, instance_slots=64, **settings) as running:
            token = StaticToken(running.services[0].identity.token())
            async with (
                edge_app.serving(edge_settings(running)) as stack,
                Client(stack.url, token) as client,
            ):
                await edge_app.until_healthy(stack, 2)
                await until_heard(client)
                words = [f" w{number}" for number in range(20)]
                for gate in gates:
                    fake.script(*words[:10], gate, *words[10:])
                for _ in range(STREAMS):  # For those that are told again.
                    fake.script(*words)
                readers = [Reader(client, f"question {number}") for number in range(STREAMS)]
                async with asyncio.timeout(WITHIN_S):
                    for reader in readers:
                        await reader.half.wait()
                await asyncio.sleep(
                    0.5 + 2 * WRITE_EVERY_S
                )  # All that was read is kept, and all are at the gates.
                running.workers()[0].send_signal(signal.SIGKILL)
                for gate in gates:
                    gate.set()
                async with asyncio.timeout(2 * WITHIN_S):
                    await asyncio.gather(*(reader.task for reader in readers))
                again_count = len(fake.asked("/api/chat")) - STREAMS
    assert [reader.error for reader in readers] == [None] * STREAMS
    for reader in readers:
        assert reader.text == "".join(words)
        assert [event.sequence for event in reader.events] == list(range(1, len(reader.events) + 1))
        assert isinstance(reader.events[-1], chats.Finished)
    assert 1 <= again_count <= STREAMS - 1, "some were told by the one, some by the other"
