"""Puts together what every process that carries streams has."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from ollamesh.inference.v1 import fleet_pb2 as pb
from ollamesh.inference.v1.health_service_pb2_grpc import add_HealthServiceServicer_to_server
from ollamesh.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from prometheus_client import CollectorRegistry

from services.common.audit import Trail
from services.common.grpc.audit import audit_trail, denials
from services.common.grpc.caller import Verifier, authentication, deadline
from services.common.grpc.client import channel
from services.common.grpc.errors import errors
from services.common.grpc.keys import trust
from services.common.grpc.server import Server
from services.common.metrics.service import ready_watched
from services.common.postgres import Database
from services.common.postgres_metrics import PostgresMetrics
from services.common.screening import Screen
from services.common.seals import Seals
from services.common.telemetry import RpcMetrics, telemetry
from services.common.tracing.export import tracing
from services.common.tracing.tracer import Tracer
from services.inference.account_metrics import AccountMetrics
from services.inference.accounts import Accounts, NoAccounts
from services.inference.acts import Acts
from services.inference.adapters.ollama import Ollama
from services.inference.adapters.postgres_usage import PostgresUsage
from services.inference.adapters.redis_link import RedisLink
from services.inference.adapters.redis_streams import RedisStreams
from services.inference.batches.app import batch_desk
from services.inference.batches.servicer import BatchDesk
from services.inference.budgets import Budgets
from services.inference.cache_parts import Caches, caches, shared_redis
from services.inference.checkup import Checkup
from services.inference.config import Config
from services.inference.core.accounting import Entry
from services.inference.core.admission import Order, admit
from services.inference.core.asks import Chat, Generate
from services.inference.core.bounds import Bounds
from services.inference.core.ledger import Ledger
from services.inference.core.secret_names import Names
from services.inference.deciding import Background
from services.inference.desk import Desk
from services.inference.embeddings import Embeddings
from services.inference.fleet_watch import FleetWatch
from services.inference.gateway import Gateway
from services.inference.health_servicer import HealthServicer
from services.inference.keeper import Keeper
from services.inference.library import Library
from services.inference.micro_batches import MicroBatches
from services.inference.quota_parts import opened_budgets
from services.inference.rest import serving as rest
from services.inference.servicer import InferenceServicer
from services.inference.streams.ids import StreamIds
from services.inference.streams.means import Means
from services.inference.streams.metrics import StreamMetrics
from services.inference.streams.registry import Streams
from services.inference.telemetry import Metrics
from services.inference.wire import listings
from services.inference.wire.frames import frame

# Another replica has accepted it already, by bounds that this one does not know.
_ACCEPTED = Bounds(
    prompt_code_points_max=1 << 20, temperature_max=2.0, output_token_count_max=1 << 20, timeout_s_max=86_400
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetParts:
    """The instances, as a process knows them, and whom it asks for a slot."""

    desk: Desk
    ledger: Ledger
    instances: Mapping[str, Ollama]
    keeper: Keeper
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a process has to do with but instances: who signs tokens and keeps budgets, the stores."""

    verifier: Verifier
    redis: RedisLink | None
    database: Database | None
    accounts: Accounts | NoAccounts
    trail: Trail
    budgets: Budgets
    background: Sequence[Background]
    tracer: Tracer | None

    def record(self, entry: Entry) -> None:
        """Write down what a request used, and charge it."""
        self.accounts.record(entry)
        self.budgets.used(entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A server of streams, and what must run for it."""

    server: Server
    background: Sequence[Background]


@asynccontextmanager
async def outside_of(config: Config, registry: CollectorRegistry) -> AsyncIterator[Outside]:
    """Reach for what is outside. None of it need be there yet."""
    async with AsyncExitStack() as opened:
        tracer = await opened.enter_async_context(
            tracing(config.server.tracing, "inference", registry, version=config.server.version)
        )
        verifier = await opened.enter_async_context(
            trust(config.trust, inside=config.server.inside, audience="inference", registry=registry)
        )
        trail = await opened.enter_async_context(
            audit_trail(config.audit, config.trust, "inference", registry, inside=config.server.inside)
        )
        database: Database | None = None
        accounts: Accounts | NoAccounts = NoAccounts()
        if (known := config.database) is not None:
            database = await opened.enter_async_context(
                Database.connect(
                    known.url,
                    connections_max=known.connections_max,
                    metrics=PostgresMetrics(registry).pool("main"),
                )
            )
            accounts = await opened.enter_async_context(
                Accounts.opened(
                    PostgresUsage(database),
                    AccountMetrics(registry),
                    backlog_max=known.usage_backlog_max,
                    kept_days=known.usage_kept_days,
                )
            )
        redis = await opened.enter_async_context(shared_redis(config, registry))
        auth = await opened.enter_async_context(
            channel(config.trust.auth_target, inside=config.server.inside, to="auth")
        )
        budgets = await opened.enter_async_context(
            opened_budgets(
                config.quotas,
                auth,
                redis,
                registry,
                secret_key=config.shared.secret_key if config.shared is not None else None,
                process_count=len(config.ports),
            )
        )
        background: list[Background] = [*accounts.background(), *budgets.background()]
        if redis is not None:
            background.append(("redis", redis.run))
        yield Outside(
            verifier=verifier,
            redis=redis,
            database=database,
            accounts=accounts,
            trail=trail,
            budgets=budgets,
            background=background,
            tracer=tracer,
        )


@asynccontextmanager
async def carrying(
    config: Config, registry: CollectorRegistry, fleet: FleetParts, outside: Outside, stop: asyncio.Event
) -> AsyncIterator[Carried]:
    """A server over the fleet. What is left of its streams is written at the end."""
    found = caches(config, outside.redis, registry)
    streams = _streams(config, fleet, outside, found, StreamMetrics(registry))
    micro = config.micro_batches
    batches = MicroBatches(fleet.desk, delay_s=micro.delay_s, texts_max=micro.texts_max)
    shelves = {name: instance.shelf for name, instance in fleet.instances.items()}
    library = Library(ledger=fleet.ledger, shelves=shelves, keeper=fleet.keeper)
    gateway = Gateway(
        engine=fleet.desk,
        ledger=fleet.ledger,
        instances=fleet.instances,
        catalog=config.catalog,
        metrics=fleet.metrics,
        streams=streams,
        record=outside.record,
        budgets=outside.budgets,
        library=library,
        embeddings=Embeddings(batches, found.vectors if found else None),
        screen=Screen(config.screening, registry),
        cache=found.answers if found else None,
        tenant_models=config.tenant_models,
    )
    fleet_watch = FleetWatch(_look(gateway))
    background: list[Background] = [
        ("fleet watch", partial(fleet_watch.run, stop)),
        ("streams", streams.run),
        ("library", library.run),
        ("micro-batches", batches.run),
    ]
    if found is not None:
        background.append(("cache", found.keeper.run))
    checkup = Checkup(has_instance=fleet.ledger.any_ready, database=outside.database, redis=outside.redis)
    background += checkup.background()
    desk = None
    if outside.database is not None:
        desk = batch_desk(
            config.batches, outside.database, gateway, policies=config.policies, registry=registry
        )
        background.append(("batches", partial(desk.worker.run, stop)))
    try:
        server = _server(config, registry, outside, gateway, fleet_watch, desk)
        add_HealthServiceServicer_to_server(HealthServicer(checkup), server.grpc)
        yield Carried(server=server, background=background)
    finally:
        await streams.close()


def _streams(
    config: Config, fleet: FleetParts, outside: Outside, found: Caches | None, metrics: StreamMetrics
) -> Streams:
    def readmit(ask: Chat | Generate, tenant: str) -> Order:
        return admit(ask, tenant=tenant, ledger=fleet.ledger, bounds=_ACCEPTED, catalog=config.catalog)

    process_id, logs = secrets.token_hex(8), None
    # Alone, it has a secret of its own.
    secret_key = config.shared.secret_key if config.shared is not None else secrets.token_hex(32)
    if outside.redis is not None and config.shared is not None:
        logs = RedisStreams(
            outside.redis,
            Seals(config.shared.encryption_keys, purpose="streams"),
            process_id=process_id,
            kept_s=config.streams.kept_s,
        )
    return Streams(
        Means(
            desk=fleet.desk,
            seal=frame,
            ids=StreamIds(secret_key.encode()),
            names=Names(secret_key, purpose="streams"),
            shared=logs,
            cache=found.answers if found is not None else None,
            replay_tokens_per_s=config.cache.replay_tokens_per_s,
            limits=config.streams,
            metrics=metrics,
            lag_bytes_max=config.reader_buffer_bytes_max,
            process_id=process_id,
            record=outside.record,
            readmit=readmit,
        )
    )


def _server(
    config: Config,
    registry: CollectorRegistry,
    outside: Outside,
    gateway: Gateway,
    fleet_watch: FleetWatch,
    desk: BatchDesk | None,
) -> Server:
    denied, acts = denials(outside.trail), Acts(outside.trail)
    server = Server(
        config.server,
        [
            telemetry(RpcMetrics(registry), outside.tracer),
            errors("inference.ollamesh", denied),
            rest.refused(denied),
        ],
        [deadline(), authentication(outside.verifier, insecure_inside=config.server.insecure_inside)],
    )
    servicer = InferenceServicer(
        gateway, config.policies, fleet_watch, outside.accounts, desk, acts=acts, linger_s=config.linger_s
    )
    add_InferenceServiceServicer_to_server(servicer, server.grpc)
    rest.add_to(server.grpc, gateway, config.policies, desk, acts)
    ready_watched(registry, server)
    return server


def _look(gateway: Gateway) -> Callable[[], Awaitable[pb.Fleet]]:
    async def look() -> pb.Fleet:
        return listings.fleet(await gateway.fleet())

    return look
