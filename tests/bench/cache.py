"""What the cache is worth: a whole answer of 500 tokens from it, against the same answer relayed live, through the edge.

Live is flat out, from two upstreams: the stub in C, which costs nothing and is faster than any model will be, and the
fake Ollama in Python, a program that makes its answer token by token. Rounds alternate. Each request of a round asks
something else, or they would share one generation; in the next round the same is asked again.

First events are compared with GetFleet, the smallest unary call that the edge lets through: one question and one answer,
of one instance each. All of them one after the other, from one client, in turns.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

import grpc.aio
from ollamesh.inference.v1.completion_pb2 import (
    ANSWER_SOURCE_CACHE,
    ANSWER_SOURCE_UNSPECIFIED,
    CACHE_POLICY_DETERMINISTIC,
    CACHE_POLICY_NEVER,
    AnswerSource,
    CachePolicy,
    ChatRequest,
    Message,
    Options,
    Role,
)
from ollamesh.inference.v1.fleet_pb2 import GetFleetRequest
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from deploy.local.ports import free_ports
from services.common.grpc.client import bearer, held
from tests.bench.plane.target import MeshTargets, Target
from tests.bench.support.load import run
from tests.bench.support.report import Figure, report
from tests.bench.support.stack import program, stack
from tests.bench.support.stub import stub
from tests.fakes.fake_ollama.models import CHAT_MODEL

ROUNDS = int(os.environ.get("ROUNDS", "5"))
TOKENS = 500
COUNT = 800  # Answers a round.
FAKE_COUNT = 100  # Of the slower one.
STREAMS = 8
SINGLE_COUNT = 300  # Of first events and unary calls, each round.
STUB_MODEL, FAKE_MODEL = f"stub-n{TOKENS}-i0:latest", CHAT_MODEL.name
FASTER, FIRST_EVENT_TIMES_UNARY = 20.0, 1.5
SECONDS_MAX = 60.0


def request(model: str, text: str, *, policy: CachePolicy) -> ChatRequest:
    """Only what is to be cached is deterministic: the rest must not even share a generation."""
    temperature = 0.7 if policy == CACHE_POLICY_NEVER else 0.0
    return ChatRequest(
        model=model,
        messages=[Message(role=Role.ROLE_USER, content=f"{text} [write {TOKENS}]")],
        options=Options(temperature=temperature, output_token_count_max=2 * TOKENS),
        cache_policy=policy,
    )


def answers_per_s(edge: Target, model: str, *, policy: CachePolicy, count: int = COUNT) -> float:
    """Return how many whole answers a second come through the edge."""
    body = request(model, "{{number}}", policy=policy).SerializeToString()
    load = replace(
        edge.load(
            model,
            concurrency=STREAMS,
            seconds=SECONDS_MAX,
            count_max=count,
            expect_token_count=TOKENS if model == STUB_MODEL else None,
        ),
        body=body,
    )
    outcome = run(load)
    if outcome.completed != count:
        raise RuntimeError(f"{model}: {outcome.completed} of {count}, {outcome.first_failure}")
    return outcome.completed / outcome.wall_s


async def singles(address: str, token: str) -> Mapping[str, list[float]]:
    """Return how long unary calls, and first events and whole answers from the cache took, in seconds."""
    took_s: defaultdict[str, list[float]] = defaultdict(list)
    asked = request(STUB_MODEL, "one by one", policy=CACHE_POLICY_DETERMINISTIC)
    async with grpc.aio.insecure_channel(address) as channel:
        service = InferenceServiceStub(channel)
        await until_cached(service, asked, token)
        for _ in range(SINGLE_COUNT):
            began_s = time.perf_counter()
            await service.GetFleet(GetFleetRequest(), timeout=10, metadata=bearer(token))
            took_s["unary"].append(time.perf_counter() - began_s)
            began_s = time.perf_counter()
            times_s, source = await answer(service, asked, token)
            if source == ANSWER_SOURCE_CACHE:  # Redis may have been too slow, on a busy machine.
                took_s["first event"].append(times_s[0] - began_s)
                took_s["whole"].append(times_s[-1] - began_s)
    return took_s


async def until_cached(service: InferenceServiceStub, asked: ChatRequest, token: str) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while (await answer(service, asked, token))[1] != ANSWER_SOURCE_CACHE:
            await asyncio.sleep(0.1)


async def answer(
    service: InferenceServiceStub, asked: ChatRequest, token: str
) -> tuple[list[float], AnswerSource]:
    """Return when its events came, and where it came from."""
    times_s, source = [], ANSWER_SOURCE_UNSPECIFIED
    with held(service.Chat(asked, timeout=10, metadata=bearer(token))) as call:
        async for response in call:  # type: ignore[attr-defined]
            times_s.append(time.perf_counter())
            if response.event.HasField("started"):
                source = response.event.started.source
    return times_s, source


def measure(mesh: MeshTargets, address: str) -> list[Figure]:
    rates: defaultdict[str, list[float]] = defaultdict(list)
    took_s: defaultdict[str, list[float]] = defaultdict(list)
    answers_per_s(mesh.edge, STUB_MODEL, policy=CACHE_POLICY_DETERMINISTIC)  # They are cached from now on.
    for _ in range(ROUNDS):
        mesh.renew()
        token = mesh.edge.headers()["authorization"].removeprefix("Bearer ")
        rates["fake"].append(
            answers_per_s(mesh.edge, FAKE_MODEL, policy=CACHE_POLICY_NEVER, count=FAKE_COUNT)
        )
        rates["stub"].append(answers_per_s(mesh.edge, STUB_MODEL, policy=CACHE_POLICY_NEVER))
        rates["cache"].append(answers_per_s(mesh.edge, STUB_MODEL, policy=CACHE_POLICY_DETERMINISTIC))
        for name, values in asyncio.run(singles(address, token)).items():
            took_s[name] += values
    return figures(
        {name: median(values) for name, values in rates.items()},
        {name: median(values) * 1e3 for name, values in took_s.items()},
    )


def figures(per_s: Mapping[str, float], p50_ms: Mapping[str, float]) -> list[Figure]:
    unary_ms = p50_ms["unary"]
    return [
        Figure(
            name=f"answers of {TOKENS} tokens from the cache, against live from {what}",
            value=per_s["cache"],
            unit="1/s",
            baseline=per_s[upstream],
            goal=FASTER * per_s[upstream],
            at_least=True,
        )
        for upstream, what in (("fake", "the fake, flat out"), ("stub", "the stub in C, flat out"))
    ] + [
        Figure(
            name="first event p50 of a cached answer, against a unary call (GetFleet)",
            value=p50_ms["first event"],
            unit="ms",
            baseline=unary_ms,
            goal=FIRST_EVENT_TIMES_UNARY * unary_ms,
        ),
        Figure(name="its last event", value=p50_ms["whole"], unit="ms", baseline=unary_ms),
    ]


def main() -> None:
    (port,) = free_ports(1)
    fake_url = f"http://127.0.0.1:{port}"
    with ExitStack() as running:
        upstream = running.enter_context(stub(STUB_MODEL))
        running.enter_context(
            program("-m", "tests.fakes.fake_ollama", "--listen", f"127.0.0.1:{port}", "--token-ms", "0")
        )
        mesh = running.enter_context(
            stack(OLLAMA_HOSTS=f"{upstream.url},{fake_url}", OLLAMESH_INSTANCE_SLOTS=str(2 * STREAMS))
        )
        found = measure(MeshTargets(mesh), mesh.edge)
        report("cache", rounds=ROUNDS, figures=found, remarks=[f"Limit: {upstream.limit}."])


if __name__ == "__main__":
    main()
