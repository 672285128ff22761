"""Composition root: the only module that knows every concrete class."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc.aio
from ollamesh.agent.v1 import agent_service_pb2
from ollamesh.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from prometheus_client import CollectorRegistry

from services.agent.adapters import auth_mandates, chat_model, mandate_seals, sandboxes
from services.agent.adapters.auth_mandates import AuthMandates
from services.agent.adapters.checkpoints import SEAL_PURPOSE, Checkpoints
from services.agent.adapters.langchain_agent import LangChainAgent, Saver
from services.agent.adapters.middleware.asking import Asking
from services.agent.adapters.postgres_approvals import PostgresApprovals
from services.agent.adapters.postgres_events import PostgresEvents
from services.agent.adapters.postgres_leases import PostgresLeases
from services.agent.adapters.postgres_runs import PostgresRuns
from services.agent.adapters.postgres_summaries import PostgresSummaries
from services.agent.adapters.postgres_thread_sessions import PostgresThreadSessions
from services.agent.adapters.postgres_threads import PostgresThreads
from services.agent.adapters.sandbox_session import SandboxSessions
from services.agent.adapters.toolbox import own_tools
from services.agent.agents import Agent
from services.agent.config import Config
from services.agent.core.turns import Turns
from services.agent.engine import Engine, Pace
from services.agent.mcp_telemetry import McpMetrics
from services.agent.observing import Observing
from services.agent.ports import Mandates, Tool
from services.agent.run_metrics import RunMetrics
from services.agent.subjects import Parts, servicer_of
from services.agent.telemetry import AgentMetrics
from services.agent.tracing import Tracing
from services.agent.worker import Worker
from services.common.grpc.audit import audit_trail, denials
from services.common.grpc.caller import authentication, deadline
from services.common.grpc.client import channel
from services.common.grpc.errors import errors
from services.common.grpc.keys import trust
from services.common.grpc.server import Server
from services.common.metrics.process import process_registry
from services.common.metrics.service import service_observed
from services.common.postgres import Database
from services.common.postgres_metrics import PostgresMetrics
from services.common.screening import Screen
from services.common.seals import Seals
from services.common.telemetry import RpcMetrics, telemetry
from services.common.tracing.export import tracing

FULL_NAME = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name
RENEWALS_PER_LEASE = 4  # Three may be lost before somebody else goes on with the run.
LOOK_EVERY_S = 1.0  # At the latest: for runs that nobody works on.


async def run(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None] = lambda _: None
) -> None:
    registry = process_registry()
    metrics = AgentMetrics(registry)
    async with AsyncExitStack() as opened:  # Closed in reverse, after the tasks that use them.
        tracer = await opened.enter_async_context(
            tracing(config.server.tracing, "agent", registry, version=config.server.version)
        )
        databases = await _databases(config, registry, opened)
        database, _ = databases
        verifier = await opened.enter_async_context(
            trust(config.trust, inside=config.server.inside, audience="agent", registry=registry)
        )
        trail = await opened.enter_async_context(
            audit_trail(config.audit, config.trust, "agent", registry, inside=config.server.inside)
        )
        inference = await _inference(config, opened)
        sessions = SandboxSessions(await _sandboxes(config, opened), PostgresThreadSessions(database))
        tools = {**own_tools(sessions, config.egress), **await _mcp_tools(config, registry, opened)}
        checkpoints = Checkpoints(
            database, Seals(config.encryption_keys, purpose=SEAL_PURPOSE), patience_s=config.lease_s
        )
        specs = {name: tool.spec for name, tool in tools.items()}
        asking = Asking(
            PostgresSummaries(database),
            context_token_count=config.context_token_count,
            link_hosts=config.link_hosts,
        )
        mandates = AuthMandates(await _auth(config, opened))
        engine, runs = _engine(
            config,
            databases,
            LangChainAgent(
                InferenceServiceStub(inference), tools, _saver(checkpoints), asking, rules=config.rules
            ),
            mandates,
            metrics,
            Observing(
                RunMetrics(registry, tools=specs, models=metrics),
                Tracing(tracer=tracer, has_content=config.trace_content, tools=specs),
            ),
            trusted_tools=[name for name, spec in specs.items() if not spec.returns_untrusted],
        )
        server = Server(
            config.server,
            [telemetry(RpcMetrics(registry), tracer), errors("agent.ollamesh", denials(trail))],
            [deadline(), authentication(verifier, insecure_inside=config.server.insecure_inside)],
        )
        parts = Parts(
            config=config,
            database=database,
            engine=engine,
            threads=PostgresThreads(database, count_max=config.caps.threads),
            mandates=mandates,
            runs=runs,
            sessions=sessions,
            checkpoints=checkpoints,
            tools=specs,
            screen=Screen(config.screening, registry),
            trail=trail,
        )
        add_AgentServiceServicer_to_server(servicer_of(parts), server.grpc)
        observed = service_observed(registry, config.server, server, spool=config.audit.spool)
        opened.enter_context(observed)
        async with asyncio.TaskGroup() as tasks:  # A bug in either ends the process.
            tasks.create_task(engine.run())
            await server.serve(stop, services=(FULL_NAME,), ready=database.answers, started=started)
            await engine.stop()


async def _databases(
    config: Config, registry: CollectorRegistry, opened: AsyncExitStack
) -> tuple[Database, Database]:
    """One for everything, and one for leases alone."""
    metrics = PostgresMetrics(registry)
    first, second = (
        Database.connect(config.database_url, connections_max=count, metrics=metrics.pool(name))
        for name, count in (("main", config.connections_max), ("leases", 1))
    )
    return await opened.enter_async_context(first), await opened.enter_async_context(second)


def _engine(  # noqa: PLR0913 - A part of the composition root.
    config: Config,
    databases: tuple[Database, Database],
    agent: Agent,
    mandates: Mandates,
    metrics: AgentMetrics,
    observing: Observing,
    *,
    trusted_tools: Collection[str],
) -> tuple[Engine, PostgresRuns]:
    """What works on runs, and where they are. The second of the databases is for leases alone."""
    database, renewals = databases
    holder, seals = uuid4(), Seals(config.encryption_keys, purpose=mandate_seals.PURPOSE)
    runs = PostgresRuns(database, seals, holder=holder, lease_s=config.lease_s, caps=config.caps)
    leases = PostgresLeases(database, seals, holder=holder, lease_s=config.lease_s, renewals=renewals)
    events = PostgresEvents(database)
    worker = Worker(
        leases=leases,
        events=events,
        approvals=PostgresApprovals(database),
        agent=agent,
        metrics=metrics,
        observing=observing,
        summaries=PostgresSummaries(database),
        clock=time.time,
        patience_s=config.lease_s,
        trusted_tools=trusted_tools,
    )
    renew_s = config.lease_s / RENEWALS_PER_LEASE
    engine = Engine(
        turns=Turns(
            workers_max=config.workers_max,
            runs_max=config.runs_max,
            runs_per_owner_max=config.caps.runs,
        ),
        worker=worker,
        runs=runs,
        leases=leases,
        events=events,
        mandates=mandates,
        metrics=metrics,
        clock=time.time,
        pace=Pace(renew_s=renew_s, look_s=min(LOOK_EVERY_S, renew_s), watched_for_s=config.watched_for_s),
    )
    metrics.watch(engine.ages_s, workers_max=config.workers_max)
    return engine, runs


def _saver(checkpoints: Checkpoints) -> Saver:
    return lambda run, step_count: checkpoints.of(run.owner.organization_id, run.lease, step_count=step_count)


async def _auth(config: Config, opened: AsyncExitStack) -> grpc.aio.Channel:
    return await opened.enter_async_context(
        channel(
            config.trust.auth_target,
            inside=config.server.inside,
            to="auth",
            service=auth_mandates.SERVICE,
            idempotent=auth_mandates.IDEMPOTENT,
        )
    )


async def _mcp_tools(
    config: Config, registry: CollectorRegistry, opened: AsyncExitStack
) -> Mapping[str, Tool]:
    if not config.mcp_servers:
        return {}
    from services.agent.adapters import mcp_tools  # A second and 30 MB, which nobody pays for nothing.

    connections = mcp_tools.connected(config.mcp_servers, McpMetrics(registry))
    return await opened.enter_async_context(connections)


async def _inference(config: Config, opened: AsyncExitStack) -> grpc.aio.Channel:
    return await opened.enter_async_context(
        channel(
            config.inference_target,
            inside=config.server.inside,
            to="inference",
            service=chat_model.SERVICE,
            idempotent=("Chat",),
        )
    )


async def _sandboxes(config: Config, opened: AsyncExitStack) -> sandboxes.Sandboxes:
    channels = {
        target: channel(
            target,
            inside=config.server.inside,
            to="sandbox",
            service=sandboxes.SERVICE,
            idempotent=sandboxes.IDEMPOTENT,
        )
        for target in config.sandbox_targets
    }
    for each in channels.values():
        await opened.enter_async_context(each)
    return sandboxes.Sandboxes(channels)
