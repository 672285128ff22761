"""Every knob of the service, read once, at the start."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from services.common.auditing.config import AuditConfig
from services.common.config import Environment
from services.common.grpc.keys import TrustConfig
from services.common.grpc.server import ServerConfig
from services.common.process_ports import process_ports
from services.common.restarts import RestartPolicy
from services.common.screening import ScreeningConfig
from services.inference.adapters.gpus import count_gpus
from services.inference.adapters.ollama import Timeouts
from services.inference.batches.config import BatchConfig
from services.inference.cache_config import CacheConfig, MicroBatchConfig
from services.inference.core.allowed import Models, read_tenant_models
from services.inference.core.bounds import Bounds, Policies, read_policies
from services.inference.core.catalog import (
    CONTEXT_TOKENS_MAX,
    KEEP_ALIVE_S_MAX,
    Catalog,
    KeepAlive,
    ModelConfig,
    read_models,
)
from services.inference.core.endpoints import OLLAMA_PORT, Endpoint, parse_endpoint
from services.inference.core.gpus import GPUS_MAX, read_gpus
from services.inference.core.policy import Policy, read_weights
from services.inference.core.restarts import OwnedPolicy
from services.inference.core.serving import PASSED_ON, Serving, plan_servings
from services.inference.quota_parts import QuotaConfig
from services.inference.streams.limits import Limits

PORT = 50053
SLOTS_MAX = 1024
PORT_MAX = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedConfig:
    """The Redis that the replicas share, and what nobody who reads it may know."""

    redis_url: str = field(repr=False)
    timeout_s: float
    secret_key: str = field(repr=False)  # Names what is kept.
    encryption_keys: tuple[str, ...] = field(repr=False)  # Seal it: the first seals, each opens.


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """What must not be lost."""

    url: str = field(repr=False)
    connections_max: int  # Of each process.
    usage_backlog_max: int  # Entries that may wait for it, in each process.
    usage_kept_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    server: ServerConfig
    ports: tuple[int, ...]  # Of each process; 0 picks a free one.
    trust: TrustConfig
    endpoints: tuple[Endpoint, ...]
    api_key: str | None = field(repr=False)
    servings: tuple[Serving, ...]  # Those of the endpoints that are ours to run.
    ollama_binary: str
    owned: OwnedPolicy
    slots_per_instance: int
    vram_bytes_per_instance: int  # 0: as far as it can be found out.
    scheduling: Policy
    metrics_tenants: frozenset[str]  # Those that metrics may name.
    shared: SharedConfig | None  # What the replicas share; without it each is alone.
    database: DatabaseConfig | None  # Where usage and batches are kept; without it there are none.
    cache: CacheConfig
    micro_batches: MicroBatchConfig
    batches: BatchConfig
    quotas: QuotaConfig
    record_file: Path | None  # Where decisions are recorded; nowhere if None.
    record_bytes_max: int
    poll_every_s: float
    timeouts: Timeouts
    policies: Policies
    screening: ScreeningConfig
    tenant_models: Mapping[str, Models]  # That each tenant may use; those not named may use all.
    catalog: Catalog
    reader_buffer_bytes_max: int
    streams: Limits
    linger_s: float
    audit: AuditConfig = field(default_factory=AuditConfig)

    @classmethod
    def read(cls, env: Environment, *, gpu_count: Callable[[], int] = count_gpus) -> Self:
        slots = env.integer("OLLAMESH_INSTANCE_SLOTS", 4, low=1, high=SLOTS_MAX)
        servings = _servings(env, slots, gpu_count)
        ports = process_ports(env, "inference", default=PORT)
        buffer_bytes_max = env.integer("OLLAMESH_READER_BUFFER_BYTES", 256 * 1024, low=1024)
        return cls(
            server=replace(ServerConfig.read(env, "inference", port=PORT, metrics_port=9463), port=ports[0]),
            ports=ports,
            trust=TrustConfig.read(env),
            audit=AuditConfig.read(env),
            endpoints=_endpoints(env, servings),
            servings=servings,
            ollama_binary=_binary(env),
            owned=_owned(env),
            api_key=env.optional_secret("OLLAMA_API_KEY"),
            slots_per_instance=slots,
            vram_bytes_per_instance=env.integer("OLLAMESH_INSTANCE_VRAM_BYTES", 0, high=2**50),
            scheduling=_scheduling(env),
            metrics_tenants=frozenset(_listed(env, "OLLAMESH_METRICS_TENANTS")),
            shared=_shared(env),
            database=_database(env),
            cache=CacheConfig.read(env, reader_buffer_bytes_max=buffer_bytes_max),
            micro_batches=MicroBatchConfig.read(env),
            reader_buffer_bytes_max=buffer_bytes_max,
            streams=_streams(env),
            linger_s=env.seconds("OLLAMESH_LINGER_S", 0, high=600),
            batches=BatchConfig.read(env),
            quotas=QuotaConfig.read(env),
            record_file=Path(recorded) if (recorded := env.optional("OLLAMESH_RECORD_FILE")) else None,
            record_bytes_max=env.integer("OLLAMESH_RECORD_BYTES_MAX", 64 * 1024 * 1024, low=4096),
            poll_every_s=env.seconds("OLLAMESH_POLL_EVERY_S", 2, low=0.01, high=60),
            timeouts=Timeouts(
                connect_s=env.seconds("OLLAMESH_CONNECT_TIMEOUT_S", 5, low=0.01, high=60),
                first_token_s=env.seconds("OLLAMESH_FIRST_TOKEN_TIMEOUT_S", 300, low=0.01, high=3600),
                load_s=env.seconds("OLLAMESH_LOAD_TIMEOUT_S", 300, low=0.01, high=3600),
                stall_s=env.seconds("OLLAMESH_STALL_TIMEOUT_S", 30, low=0.01, high=3600),
                listing_s=env.seconds("OLLAMESH_POLL_TIMEOUT_S", 5, low=0.01, high=60),
            ),
            policies=_policies(env),
            screening=ScreeningConfig.read(env),
            tenant_models=_tenant_models(env),
            catalog=_catalog(env),
        )

    @property
    def worker_variables(self) -> Mapping[str, str]:
        """What the environment of a worker has otherwise: the endpoints as found here, and none of them its own.

        It would count the GPUs anew, and might find others.
        """
        hosts = (f"{'https' if each.secure else 'http'}://{each.name}" for each in self.endpoints)
        return {"OLLAMA_HOSTS": ",".join(hosts), "OLLAMA_GPUS": "", "OLLAMA_GPUS_FILE": ""}


def _streams(env: Environment) -> Limits:
    usual = Limits()
    return Limits(
        kept_s=env.seconds("OLLAMESH_STREAM_KEPT_S", usual.kept_s, low=1, high=86_400),
        log_bytes_max=env.integer("OLLAMESH_STREAM_BYTES_MAX", usual.log_bytes_max, low=4096, high=1 << 30),
        memory_bytes_max=env.integer("OLLAMESH_STREAMS_MEMORY_BYTES", usual.memory_bytes_max, low=0),
        write_every_s=env.seconds("OLLAMESH_STREAM_WRITE_EVERY_S", usual.write_every_s, low=0.01, high=1),
    )


def _shared(env: Environment) -> SharedConfig | None:
    if env.optional("REDIS_URL") is None:
        return None
    return SharedConfig(
        redis_url=env.url("REDIS_URL", "redis", "rediss"),
        timeout_s=env.seconds("OLLAMESH_REDIS_TIMEOUT_S", 0.04, low=0.005, high=1),
        secret_key=env.secret("SECRET_KEY"),
        encryption_keys=env.fernet_keys("ENCRYPTION_KEY"),
    )


def _database(env: Environment) -> DatabaseConfig | None:
    if env.optional("DATABASE_URL") is None:
        return None
    return DatabaseConfig(
        url=env.url("DATABASE_URL", "postgresql", "postgres"),
        connections_max=env.integer("OLLAMESH_INFERENCE_CONNECTIONS_MAX", 10, low=1, high=1000),
        usage_backlog_max=env.integer("OLLAMESH_USAGE_BACKLOG_MAX", 20_000, low=1000, high=10**6),
        usage_kept_days=env.integer("OLLAMESH_USAGE_KEPT_DAYS", 400, low=7, high=3660),
    )


def _scheduling(env: Environment) -> Policy:
    usual = Policy()
    weights, mistakes = read_weights(env.optional("OLLAMESH_TENANT_WEIGHTS") or "{}")
    for mistake in mistakes:
        env.reject("OLLAMESH_TENANT_WEIGHTS", mistake)
    return Policy(
        waiting_max=env.integer("OLLAMESH_QUEUE_MAX", usual.waiting_max, low=1, high=100_000),
        batch_waiting_share=env.number(
            "OLLAMESH_BATCH_QUEUE_SHARE", usual.batch_waiting_share, low=0.01, high=1
        ),
        weights=weights,
        ageing_s=env.seconds("OLLAMESH_AGEING_S", usual.ageing_s, low=0.1, high=86_400),
        aged_share=env.number("OLLAMESH_AGED_SHARE", usual.aged_share, low=0.01, high=1),
        wait_share_max=env.number("OLLAMESH_WAIT_SHARE_MAX", usual.wait_share_max, low=0.01, high=1),
        turn_loads=env.number("OLLAMESH_TURN_LOADS", usual.turn_loads, low=0, high=1000),
        turn_min_s=env.seconds("OLLAMESH_TURN_MIN_S", usual.turn_min_s, low=0, high=3600),
    )


def _listed(env: Environment, name: str) -> list[str]:
    return [text.strip() for text in (env.optional(name) or "").split(",") if text.strip()]


def _policies(env: Environment) -> Policies:
    """The default bounds, and those of OLLAMESH_POLICY."""
    default = Bounds(
        prompt_code_points_max=env.integer("OLLAMESH_PROMPT_CODE_POINTS_MAX", 10_000, low=1),
        temperature_max=env.number("OLLAMESH_TEMPERATURE_MAX", 1, low=0, high=2),
        output_token_count_max=env.integer("OLLAMESH_OUTPUT_TOKENS_MAX", 8192, low=1),
        timeout_s_min=env.seconds("OLLAMESH_TIMEOUT_MIN_S", 5, high=3600),
        timeout_s_max=env.seconds("OLLAMESH_TIMEOUT_MAX_S", 300, low=0.01),
    )
    if default.timeout_s_min > default.timeout_s_max:
        env.reject("OLLAMESH_TIMEOUT_MIN_S", "is above OLLAMESH_TIMEOUT_MAX_S")
    policies, mistakes = read_policies(env.optional("OLLAMESH_POLICY") or "{}", default=default)
    for mistake in mistakes:
        env.reject("OLLAMESH_POLICY", mistake)
    return policies


def _tenant_models(env: Environment) -> Mapping[str, Models]:
    found, mistakes = read_tenant_models(env.optional("OLLAMESH_TENANT_MODELS") or "{}")
    for mistake in mistakes:
        env.reject("OLLAMESH_TENANT_MODELS", mistake)
    return found


def _catalog(env: Environment) -> Catalog:
    """The default configuration of models, and those of OLLAMESH_MODELS."""
    keep_alive = KeepAlive(
        min_s=env.seconds("OLLAMESH_KEEP_ALIVE_MIN_S", 60, low=1, high=KEEP_ALIVE_S_MAX),
        default_s=env.seconds("OLLAMESH_KEEP_ALIVE_S", 300, low=1, high=KEEP_ALIVE_S_MAX),
        max_s=env.seconds("OLLAMESH_KEEP_ALIVE_MAX_S", 3600, low=1, high=KEEP_ALIVE_S_MAX),
    )
    if not keep_alive.min_s <= keep_alive.default_s <= keep_alive.max_s:
        env.reject("OLLAMESH_KEEP_ALIVE_S", "is not between its MIN and MAX")
    otherwise = ModelConfig(
        context_token_count=env.integer("OLLAMESH_CONTEXT_TOKENS", 0, high=CONTEXT_TOKENS_MAX)
    )
    models, mistakes = read_models(env.optional("OLLAMESH_MODELS") or "{}", otherwise=otherwise)
    for mistake in mistakes:
        env.reject("OLLAMESH_MODELS", mistake)
    return Catalog(models=models, otherwise=otherwise, keep_alive=keep_alive)


def _servings(env: Environment, slots: int, gpu_count: Callable[[], int]) -> tuple[Serving, ...]:
    """The servers that OLLAMA_GPUS asks for."""
    text = env.optional("OLLAMA_GPUS")
    if text is None:
        return ()
    port = env.integer("OLLAMESH_RUNTIME_PORT", OLLAMA_PORT, low=1, high=PORT_MAX - GPUS_MAX)
    gpus, mistake = read_gpus(text, present_count=gpu_count())
    if mistake:
        env.reject("OLLAMA_GPUS", mistake)
    inherited = {name: value for name in PASSED_ON if (value := env.optional(name)) is not None}
    return plan_servings(gpus, port=port, slots=slots, inherited=inherited)


def _binary(env: Environment) -> str:
    """The program to run for OLLAMA_GPUS; empty if there is nothing to run."""
    if env.optional("OLLAMA_GPUS") is None:
        return ""
    given = env.optional("OLLAMESH_OLLAMA_BINARY")
    found = shutil.which(given or "ollama", path=env.optional("PATH"))
    if found is None and given:
        env.reject("OLLAMESH_OLLAMA_BINARY", "is not a program")
    elif found is None:
        env.reject("OLLAMA_GPUS", "needs `ollama` on PATH, or OLLAMESH_OLLAMA_BINARY to say where it is")
    return found or ""


def _owned(env: Environment) -> OwnedPolicy:
    usual = OwnedPolicy()
    restarts = usual.restarts
    return OwnedPolicy(
        restarts=RestartPolicy(
            first_delay_s=env.seconds(
                "OLLAMESH_RESTART_DELAY_S", restarts.first_delay_s, low=0.01, high=restarts.longest_delay_s
            ),
            longest_delay_s=restarts.longest_delay_s,
            restarts_max=env.integer("OLLAMESH_RESTARTS_MAX", restarts.restarts_max, high=1000),
            window_s=env.seconds("OLLAMESH_RESTART_WINDOW_S", restarts.window_s, low=1),
        ),
        cool_down_s=env.seconds("OLLAMESH_RESTART_COOL_DOWN_S", usual.cool_down_s, low=1),
    )


def _endpoints(env: Environment, servings: tuple[Serving, ...]) -> tuple[Endpoint, ...]:
    """The instances of OLLAMA_HOSTS, or the one of OLLAMA_HOST; and our own."""
    name = "OLLAMA_HOSTS"
    owns = env.optional("OLLAMA_GPUS") is not None
    if env.optional(name) is None and env.optional("OLLAMA_HOST") is not None and not owns:
        name = "OLLAMA_HOST"
    found = {serving.name: serving.endpoint for serving in servings}
    value = (env.optional(name) or "") if owns else env.text(name)
    texts = [text.strip() for text in value.split(",") if text.strip()]
    if value and not texts:
        env.reject(name, "names no instance")
    for number, text in enumerate(texts, 1):
        endpoint = parse_endpoint(text)
        if endpoint is None:
            env.reject(name, f"has an entry that is not http[s]://host[:port]: number {number}")
        elif endpoint.name in found:
            env.reject(name, f"names an instance twice: number {number}")
        else:
            found[endpoint.name] = endpoint
    return tuple(found.values())
