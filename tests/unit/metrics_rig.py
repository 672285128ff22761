"""The metrics of each service, driven by everything that callers, fleets and operators may come up with."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import grpc
from ollamesh.agent.v1 import agent_service_pb2
from ollamesh.auth.v1 import auth_service_pb2, oauth_service_pb2
from ollamesh.compat.ollama.v1 import ollama_service_pb2
from ollamesh.compat.openai.v1 import openai_service_pb2
from ollamesh.inference.v1 import inference_service_pb2
from ollamesh.sandbox.v1 import sandbox_service_pb2
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from structlog.testing import capture_logs

from services.agent.core.budget import Usage
from services.agent.core.events import Finished, Status
from services.agent.run_metrics import RunMetrics
from services.agent.telemetry import AgentMetrics
from services.common.loop_lag import loop_watched
from services.common.metrics.process import process_registry
from services.common.postgres_metrics import PostgresMetrics
from services.common.telemetry import RpcMetrics
from services.inference.core.decisions import Cause
from services.inference.core.gpus import Gpu
from services.inference.core.jobs import Job, Priority
from services.inference.core.ledger import InstanceView, Report
from services.inference.errors import QueueTimeout
from services.inference.hardware_metrics import HardwareMetrics
from services.inference.telemetry import Metrics
from services.inference.work import Summary

SERIES_MAX = 5000
GARBAGE_COUNT = 200
INSTANCES = 32  # Of a gateway; each has some twenty series, with a GPU.
# What a method can end with, beside what gRPC itself answers.
CODES = list(grpc.StatusCode)
SERVED = {
    "auth": (auth_service_pb2, oauth_service_pb2),
    "agent": (agent_service_pb2,),
    "inference": (inference_service_pb2, ollama_service_pb2, openai_service_pb2),
    "sandbox": (sandbox_service_pb2,),
}


def garbage() -> list[str]:
    return [secrets.token_hex(6) for _ in range(GARBAGE_COUNT)]


def methods(service: str) -> list[str]:
    return [
        f"/{each.full_name}/{method.name}"
        for module in SERVED[service]
        for each in module.DESCRIPTOR.services_by_name.values()
        for method in each.methods
    ]


def call_all(registry: CollectorRegistry, service: str) -> None:
    """Every method, and of each the codes that a busy day shows."""
    rpc = RpcMetrics(registry)
    for number, method in enumerate(methods(service)):
        for code in (grpc.StatusCode.OK, *CODES[number % 3 :: 3]):
            rpc.ended(method, code, 0.1)


def ask_all(registry: CollectorRegistry, statements: Iterable[str]) -> None:
    """All of them fail, after a long while."""
    metrics = PostgresMetrics(registry)
    for pool in ("main", "audit", "leases"):
        metrics.pool(pool)
    with capture_logs() as logged:
        for name in statements:
            query: Any = SimpleNamespace(query=f"SELECT 1 FROM {name}", elapsed=9.0, exception=ValueError())
            metrics.ran(query)
    assert logged


def job(ticket: int, model: str, tenant: str, priority: Priority) -> Job:
    return Job(
        ticket=ticket,
        tenant=tenant,
        model=model,
        priority=priority,
        arrived_at_s=0.0,
        expires_at_s=1.0,
    )


def summary(operation: str, error: Exception | None) -> Summary:
    return Summary(
        operation=operation,
        prompt_token_count=9,
        output_token_count=9,
        first_token_at_s=1.0,
        ended_at_s=2.0,
        error=error,
    )


def infer_all(registry: CollectorRegistry) -> None:
    tenants = garbage()
    metrics = Metrics(registry, tenants=tenants)  # An operator who names a thousand tenants.
    operations, errors = ("chat", "text_completion", "embeddings"), (None, QueueTimeout(), ValueError())
    charged: Any = SimpleNamespace(charge=SimpleNamespace(gpu_s=1.0), surprise=True)
    for number, (model, tenant) in enumerate(zip(garbage(), tenants, strict=True)):
        for priority, operation, error in product(Priority, operations, errors):
            one = job(number, model, tenant, priority)
            metrics.settled(one, summary(operation, error), now_s=2.0)
            metrics.placed(model, priority, waited_s=0.1)
            metrics.waiting(model, [one])
            metrics.ran(one, charged)
        for cause in Cause:
            metrics.load(model, cause)
        metrics.loaded(model, ok=False)
        metrics.refused(model)
    gpu = Gpu(index=0, uuid="GPU-a")
    hardware = HardwareMetrics(registry, lambda: (gpu,), lambda: 1)
    hardware.sample(
        [
            InstanceView(name=f"http://gpu-{number}:11434", slots=4, report=Report(), gpus=(gpu,))
            for number in range(INSTANCES)
        ]
    )


def run_all(registry: CollectorRegistry) -> None:
    tools = garbage()  # Those of all MCP servers.
    metrics = AgentMetrics(registry)
    runs = RunMetrics(registry, tools=tools, models=metrics)
    for model, tool in zip(garbage(), tools, strict=True):
        for status in Status:
            metrics.ended(status, model=model, answers=True, duration_s=1.0)
            runs.ended(model, Finished(status=status, reason=secrets.token_hex(4), usage=Usage()))
        for failed in (True, False):
            runs.called(tool, failed=failed, duration_s=1.0)
        runs.remembered(tool)
        for kind in ("input", "output"):
            runs.tokens(model, kind, 3)


def ask_of_everything(registry: CollectorRegistry) -> None:
    """More tables than there are: a statement is a constant of ours, but their number grows."""
    ask_all(registry, garbage())


def ask_of_batches(registry: CollectorRegistry) -> None:
    """Twice as many statements as the gateway has, the same in each process."""
    ask_all(registry, [f"t_{number}" for number in range(40)])


DRIVEN: dict[str, Sequence[Callable[[CollectorRegistry], None]]] = {
    "auth": (ask_of_everything,),
    "agent": (ask_of_everything, run_all),
    "inference": (ask_of_batches, infer_all),
    "sandbox": (),
}
# What else a service has: counted on a stack that is up (tests/mesh/test_metrics_catalogue.py), and twice that.
REST = 500


def count(registry: CollectorRegistry) -> int:
    return sum(not line.startswith(b"#") for line in generate_latest(registry).splitlines())


async def driven(service: str) -> CollectorRegistry:
    registry = process_registry()
    with loop_watched(registry):
        call_all(registry, service)
        for drive in DRIVEN[service]:
            drive(registry)
        await asyncio.sleep(0)
    return registry
