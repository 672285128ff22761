"""Every knob of the service, read once, at the start."""

from dataclasses import dataclass, field
from typing import Self

from services.common.config import Environment
from services.common.grpc.keys import TrustConfig
from services.common.grpc.server import ServerConfig
from services.inference.adapters.ollama import Timeouts
from services.inference.core.bounds import Bounds, Policies, read_policies
from services.inference.core.catalog import (
    CONTEXT_TOKENS_MAX,
    KEEP_ALIVE_S_MAX,
    Catalog,
    KeepAlive,
    ModelConfig,
    read_models,
)
from services.inference.core.endpoints import Endpoint, parse_endpoint
from services.inference.core.policy import Policy, read_weights

SLOTS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    server: ServerConfig
    trust: TrustConfig
    endpoints: tuple[Endpoint, ...]
    api_key: str | None = field(repr=False)
    slots_per_instance: int
    scheduling: Policy
    metrics_tenants: frozenset[str]  # Those that metrics may name.
    poll_every_s: float
    timeouts: Timeouts
    policies: Policies
    catalog: Catalog
    reader_buffer_bytes_max: int

    @classmethod
    def read(cls, env: Environment) -> Self:
        return cls(
            server=ServerConfig.read(env, "inference", port=50053, metrics_port=9463),
            trust=TrustConfig.read(env),
            endpoints=_endpoints(env),
            api_key=env.optional("OLLAMA_API_KEY"),
            slots_per_instance=env.integer("OLLAMESH_INSTANCE_SLOTS", 4, low=1, high=SLOTS_MAX),
            scheduling=_scheduling(env),
            metrics_tenants=frozenset(_listed(env, "OLLAMESH_METRICS_TENANTS")),
            poll_every_s=env.seconds("OLLAMESH_POLL_EVERY_S", 2, low=0.01, high=60),
            timeouts=Timeouts(
                connect_s=env.seconds("OLLAMESH_CONNECT_TIMEOUT_S", 5, low=0.01, high=60),
                first_token_s=env.seconds("OLLAMESH_FIRST_TOKEN_TIMEOUT_S", 300, low=0.01, high=3600),
                load_s=env.seconds("OLLAMESH_LOAD_TIMEOUT_S", 300, low=0.01, high=3600),
                stall_s=env.seconds("OLLAMESH_STALL_TIMEOUT_S", 30, low=0.01, high=3600),
                listing_s=env.seconds("OLLAMESH_POLL_TIMEOUT_S", 5, low=0.01, high=60),
            ),
            policies=_policies(env),
            catalog=_catalog(env),
            reader_buffer_bytes_max=env.integer("OLLAMESH_READER_BUFFER_BYTES", 256 * 1024, low=1024),
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


def _endpoints(env: Environment) -> tuple[Endpoint, ...]:
    """The instances of OLLAMA_HOSTS, or the one of OLLAMA_HOST."""
    name = "OLLAMA_HOSTS"
    if env.optional(name) is None and env.optional("OLLAMA_HOST") is not None:
        name = "OLLAMA_HOST"
    found: dict[str, Endpoint] = {}
    value = env.text(name)
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
