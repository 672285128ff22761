"""Every knob of the service, read once, at the start."""

from dataclasses import dataclass, field
from typing import Self

from services.common.config import Environment
from services.common.grpc.keys import TrustConfig
from services.common.grpc.server import ServerConfig
from services.inference.adapters.ollama import Timeouts
from services.inference.core.bounds import Bounds
from services.inference.core.endpoints import Endpoint, parse_endpoint

SLOTS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    server: ServerConfig
    trust: TrustConfig
    endpoints: tuple[Endpoint, ...]
    api_key: str | None = field(repr=False)
    slots_per_instance: int
    waiting_max: int  # Per model.
    poll_every_s: float
    timeouts: Timeouts
    bounds: Bounds
    reader_buffer_bytes_max: int

    @classmethod
    def read(cls, env: Environment) -> Self:
        return cls(
            server=ServerConfig.read(env, "inference", port=50053, metrics_port=9463),
            trust=TrustConfig.read(env),
            endpoints=_endpoints(env),
            api_key=env.optional("OLLAMA_API_KEY"),
            slots_per_instance=env.integer("OLLAMESH_INSTANCE_SLOTS", 4, low=1, high=SLOTS_MAX),
            waiting_max=env.integer("OLLAMESH_QUEUE_MAX", 100, low=1, high=100_000),
            poll_every_s=env.seconds("OLLAMESH_POLL_EVERY_S", 2, low=0.01, high=60),
            timeouts=Timeouts(
                connect_s=env.seconds("OLLAMESH_CONNECT_TIMEOUT_S", 5, low=0.01, high=60),
                first_token_s=env.seconds("OLLAMESH_FIRST_TOKEN_TIMEOUT_S", 300, low=0.01, high=3600),
                load_s=env.seconds("OLLAMESH_LOAD_TIMEOUT_S", 300, low=0.01, high=3600),
                stall_s=env.seconds("OLLAMESH_STALL_TIMEOUT_S", 30, low=0.01, high=3600),
                listing_s=env.seconds("OLLAMESH_POLL_TIMEOUT_S", 5, low=0.01, high=60),
            ),
            bounds=Bounds(
                prompt_code_points_max=env.integer("OLLAMESH_PROMPT_CODE_POINTS_MAX", 10_000, low=1),
                temperature_max=env.number("OLLAMESH_TEMPERATURE_MAX", 1, low=0, high=2),
                output_token_count_max=env.integer("OLLAMESH_OUTPUT_TOKENS_MAX", 8192, low=1),
                context_token_count=env.integer("OLLAMESH_CONTEXT_TOKENS", 0, high=4_194_304),
            ),
            reader_buffer_bytes_max=env.integer("OLLAMESH_READER_BUFFER_BYTES", 256 * 1024, low=1024),
        )


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
