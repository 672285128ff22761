"""Every knob of the service, read once, at the start."""

import json
from dataclasses import dataclass, field

from services.agent.adapters.json_schemas import JsonSchema, SchemaInvalidError
from services.agent.core.caps import Caps
from services.agent.core.egress import Egress
from services.agent.core.mcp_servers import McpFileInvalidError, McpServer, parsed, tools_of
from services.agent.core.policy import Rules
from services.common.auditing.config import AuditConfig
from services.common.config import Environment
from services.common.grpc.keys import TrustConfig
from services.common.grpc.server import ServerConfig
from services.common.screening import ScreeningConfig

MCP = "OLLAMESH_AGENT_MCP"
FETCH_HOSTS = "OLLAMESH_AGENT_FETCH_HOSTS"
FETCH_PRIVATE_NETWORKS = "OLLAMESH_AGENT_FETCH_PRIVATE_NETWORKS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    server: ServerConfig
    trust: TrustConfig
    database_url: str = field(repr=False)
    connections_max: int
    encryption_keys: tuple[str, ...] = field(repr=False)  # Seal what is stored: the first seals, each opens.
    inference_target: str
    sandbox_targets: tuple[str, ...]  # Each is one replica.
    egress: Egress  # What tools may fetch.
    default_model: str
    context_token_count: int  # What models can read at once.
    link_hosts: frozenset[
        str
    ]  # Links to them stay in answers of models that have read what anybody may have written.
    trace_content: bool = False  # Whether traces hold what was said.
    screening: ScreeningConfig
    workers_max: int  # Runs that work at the same time.
    runs_max: int  # Runs that wait or work.
    caps: Caps
    mcp_servers: tuple[McpServer, ...] = ()  # Others' tools.
    rules: Rules = field(default_factory=Rules)  # Of the operator, about tools.
    lease_s: float  # How long a replica may be silent before others go on with its runs.
    watched_for_s: float  # How long a run that ends unwatched may go without a watcher.
    audit: AuditConfig = field(default_factory=AuditConfig)

    @classmethod
    def read(cls, env: Environment) -> "Config":
        return cls(
            server=ServerConfig.read(env, "agent", port=50052, metrics_port=9462),
            trust=TrustConfig.read(env),
            audit=AuditConfig.read(env),
            database_url=env.url("DATABASE_URL", "postgresql", "postgres"),
            connections_max=env.integer("OLLAMESH_AGENT_CONNECTIONS_MAX", 10, low=1, high=1000),
            encryption_keys=env.fernet_keys("ENCRYPTION_KEY"),
            inference_target=env.text("OLLAMESH_INFERENCE_TARGET", "127.0.0.1:50053"),
            sandbox_targets=_targets(env, "OLLAMESH_SANDBOX_TARGET", "127.0.0.1:50054"),
            egress=_egress(env),
            default_model=env.text("OLLAMESH_AGENT_MODEL", "smollm2:135m"),
            context_token_count=env.integer("OLLAMESH_AGENT_CONTEXT_TOKENS", 4096, low=1024),
            link_hosts=frozenset(map(str.lower, _listed(env.optional("OLLAMESH_AGENT_LINK_HOSTS") or ""))),
            trace_content=env.flag("OLLAMESH_AGENT_TRACE_CONTENT", default=False),
            screening=ScreeningConfig.read(env),
            workers_max=env.integer("OLLAMESH_AGENT_WORKERS_MAX", 128, low=1),
            runs_max=env.integer("OLLAMESH_AGENT_RUNS_MAX", 512, low=1),
            caps=_caps(env),
            lease_s=env.seconds("OLLAMESH_AGENT_LEASE_S", 10, low=0.5, high=600),
            mcp_servers=_mcp_servers(env),
            rules=_rules(env),
            watched_for_s=env.seconds("OLLAMESH_AGENT_WATCH_GRACE_S", 30, low=0.5, high=3600),
        )


def _caps(env: Environment) -> Caps:
    defaults = Caps()

    def cap(name: str, default: int) -> int:
        return env.integer(f"OLLAMESH_AGENT_{name}_MAX", default, low=1)

    return Caps(
        assistants=cap("ASSISTANTS_PER_USER", defaults.assistants),
        threads=cap("THREADS_PER_USER", defaults.threads),
        runs_per_thread=cap("RUNS_PER_THREAD", defaults.runs_per_thread),
        runs=cap("RUNS_PER_USER", defaults.runs),
        batch_runs=cap("BATCH_RUNS_PER_USER", defaults.batch_runs),
    )


def _rules(env: Environment) -> Rules:
    names = "OLLAMESH_AGENT_TOOLS_ASKED", "OLLAMESH_AGENT_TOOLS_REFUSED"
    asked, refused = (env.optional(name) or "" for name in names)
    try:
        return Rules.read(asked=asked, refused=refused)
    except ValueError as error:
        env.reject(" or ".join(names), f"cannot be read: {error}")
        return Rules()


def _mcp_servers(env: Environment) -> tuple[McpServer, ...]:
    """Usually of the file that OLLAMESH_AGENT_MCP_FILE names."""
    if (text := env.optional(MCP)) is None:
        return ()
    name = MCP if env.file_of(MCP) is None else f"{MCP}_FILE"
    try:
        servers = parsed(text)
        for tool in tools_of(servers):
            JsonSchema(json.dumps(tool.definition["inputSchema"]))
    except McpFileInvalidError as error:
        env.reject(name, f"cannot be used: {error}")
    except SchemaInvalidError as error:
        env.reject(name, f"cannot be used: the schema of {tool.offered_as} {error}")
    else:
        return servers
    return ()


def _targets(env: Environment, name: str, default: str) -> tuple[str, ...]:
    targets = tuple(dict.fromkeys(_listed(env.text(name, default))))
    if not targets:
        env.reject(name, "names no target")
    return targets


def _egress(env: Environment) -> Egress:
    hosts = _listed(env.optional(FETCH_HOSTS) or "")
    private = _listed(env.optional(FETCH_PRIVATE_NETWORKS) or "")
    try:
        Egress.of(hosts)
    except ValueError:
        env.reject(FETCH_HOSTS, "is no list of hosts, such as example.com,*.example.org:8443")
        hosts = []
    try:
        return Egress.of(hosts, private)
    except ValueError:
        env.reject(FETCH_PRIVATE_NETWORKS, "is no list of networks, such as 10.1.2.0/24")
        return Egress.of(())


def _listed(text: str) -> list[str]:
    """Separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
