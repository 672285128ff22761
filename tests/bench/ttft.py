"""What the mesh adds to a token: first token and each token's way, through the edge against straight to the backend.

Rounds alternate between both paths, on the same machine in the same minute. Two backends: the embedded runtime, whose
own first token varies by more than the mesh adds, and a stub that costs nothing and whose tokens carry the time at
which they were sent, so that a token's way is measured exactly.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from statistics import median

import aiohttp
import grpc.aio
from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message, Options, Role
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from deploy.local.ports import free_ports
from tests.bench.support.report import ROOT, Figure, report
from tests.bench.support.stack import Stack, program, stack
from tests.bench.support.stub import stub

ROUNDS = int(os.environ.get("ROUNDS", "40"))
WARM_UP_ROUNDS = 3
RUNTIME_MODEL = "smollm2:135m"
FIRST_TOKEN_STUB, PACED_STUB = "stub-n1-i0", "stub-n50-i20000"
SENT_NS = re.compile(r"~(\d{17})")
PROMPT = "Name a colour."
FIRST_TOKEN_GOAL_S, TOKEN_GOAL_S = 0.005, 0.001


class Direct:
    """Straight to a backend, over Ollama's wire."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def tokens(self, model: str, token_count: int) -> AsyncIterator[str]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "options": {"temperature": 0, "num_predict": token_count},
        }
        async with self._session.post(f"{self._url}/api/chat", json=body) as response:
            async for line in response.content:
                if text := json.loads(line)["message"]["content"]:
                    yield text


class ThroughEdge:
    """Through Envoy and the gateway, over gRPC."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = InferenceServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def tokens(self, model: str, token_count: int) -> AsyncIterator[str]:
        request = ChatRequest(
            model=model,
            messages=[Message(role=Role.ROLE_USER, content=PROMPT)],
            options=Options(temperature=0, output_token_count_max=token_count),
        )
        call = self._stub.Chat(request, timeout=60, metadata=self._metadata)
        async for response in call:
            if text := response.event.delta.text:
                yield text


async def first_token_s(path: Direct | ThroughEdge, model: str) -> float:
    started_s = time.monotonic()
    async with aclosing(path.tokens(model, 1)) as tokens:  # type: ignore[type-var]
        async for _ in tokens:
            return time.monotonic() - started_s
    raise RuntimeError(f"{model} sent no token")


async def token_ways_s(path: Direct | ThroughEdge) -> list[float]:
    """How long each token was on its way. Tokens that arrive together all count, each from its own start."""
    ways_s = []
    async for text in path.tokens(PACED_STUB, 50):
        arrived_ns = time.monotonic_ns()
        ways_s += [(arrived_ns - int(sent_ns)) / 1e9 for sent_ns in SENT_NS.findall(text)]
    return ways_s


async def measure(runtime_url: str, stub_url: str, mesh: Stack) -> list[Figure]:
    direct_s: dict[str, list[float]] = {RUNTIME_MODEL: [], FIRST_TOKEN_STUB: [], PACED_STUB: []}
    edge_s: dict[str, list[float]] = {RUNTIME_MODEL: [], FIRST_TOKEN_STUB: [], PACED_STUB: []}
    async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(mesh.edge) as channel:
        edge = ThroughEdge(channel, mesh.token)
        for number in range(-WARM_UP_ROUNDS, ROUNDS):
            for model, url in ((RUNTIME_MODEL, runtime_url), (FIRST_TOKEN_STUB, stub_url)):
                sample = await first_token_s(Direct(session, url), model), await first_token_s(edge, model)
                if number >= 0:
                    direct_s[model].append(sample[0])
                    edge_s[model].append(sample[1])
            if number >= 0 and number % 4 == 0:
                direct_s[PACED_STUB] += await token_ways_s(Direct(session, stub_url))
                edge_s[PACED_STUB] += await token_ways_s(edge)
    return [
        *compared(
            "first token, embedded runtime",
            direct_s[RUNTIME_MODEL],
            edge_s[RUNTIME_MODEL],
            FIRST_TOKEN_GOAL_S,
        ),
        *compared(
            "first token, stub", direct_s[FIRST_TOKEN_STUB], edge_s[FIRST_TOKEN_STUB], FIRST_TOKEN_GOAL_S
        ),
        *compared("token's way, stub at 50/s", direct_s[PACED_STUB], edge_s[PACED_STUB], TOKEN_GOAL_S),
    ]


def compared(name: str, direct_s: list[float], edge_s: list[float], goal_s: float) -> list[Figure]:
    direct_ms, edge_ms = median(direct_s) * 1e3, median(edge_s) * 1e3
    return [
        Figure(name=name, value=edge_ms, unit="ms", baseline=direct_ms),
        Figure(name=f"{name}: added", value=edge_ms - direct_ms, unit="ms", goal=goal_s * 1e3),
    ]


def main() -> None:
    (runtime_port,) = free_ports(1)
    runtime_url = f"http://127.0.0.1:{runtime_port}"
    models = os.environ.get("OLLAMESH_CACHE", str(ROOT / ".ollamesh" / "cache")) + "/models"
    with (
        stub(FIRST_TOKEN_STUB, PACED_STUB) as backend,
        program("-m", "deploy.local.runtime", "--listen", f"127.0.0.1:{runtime_port}", "--models", models),
        stack(OLLAMA_HOSTS=f"{runtime_url},{backend.url}") as mesh,
    ):
        figures = asyncio.run(measure(runtime_url, backend.url, mesh))
        report("ttft", rounds=ROUNDS, figures=figures, remarks=[f"Limit: {backend.limit}."])


if __name__ == "__main__":
    main()
