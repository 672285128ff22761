"""The parts of the real stack, as data: commands, order, ports, probes."""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local import identities, postgres, redis, servers
from deploy.local.core.graph import Node
from deploy.local.environments import FOR_SERVERS, for_programs
from deploy.local.model_source import RUNTIME_MODULE, SourceKind
from deploy.local.observing import observers
from deploy.local.part import Command, Part
from deploy.local.plan import Plan
from deploy.local.probes import GrpcProbe, HttpProbe, PostgresProbe, RedisProbe
from deploy.local.settings import OTLP_TARGET, ROOT, port_variable, process_variables
from deploy.migrations.config import MONITOR
from deploy.migrations.config import SERVICES as MIGRATED
from services.common.inside import Inside
from services.common.launch import Guard
from services.common.peers import OPERATOR

# Whom a service calls; and which secrets it is given, by the names it reads them under.
CALLS = {
    "auth": (),
    "inference": ("auth",),
    "sandbox": ("auth",),
    "agent": ("auth", "inference", "sandbox"),
}
KEYS = {"REDIS_URL": "redis_url", "SECRET_KEY": "secret_key", "ENCRYPTION_KEY": "encryption_key"}
SECRETS = {
    "auth": {
        "DATABASE_URL": "auth_database_url",
        "OLLAMESH_ADMIN_PASSWORD": "admin_password",
        "OLLAMESH_SERVICE_CLIENT_SECRET": "service_client_secret",
        **KEYS,
    },
    "inference": {"DATABASE_URL": "inference_database_url", **KEYS},
    "sandbox": {},  # It starts strangers' code: what it does not have cannot be taken from it.
    "agent": {"DATABASE_URL": "agent_database_url", "ENCRYPTION_KEY": "encryption_key"},
}
# What the inference service takes for granted of an Ollama; Ollama's own defaults are 1, and 3 for each GPU.
DEFAULT_SLOTS = 4
LOADED_MAX = 64


def all_parts(plan: Plan) -> tuple[Part, ...]:
    runtime = (_runtime(plan),) if plan.source.is_part else ()
    stores = ("postgres", "redis", "migrate")
    return (
        _postgres(plan),
        _redis(plan),
        *runtime,
        _migrate(plan),
        *((_traces(plan),) if plan.settings.keeps_traces else ()),
        _service(plan, "auth", after=stores),
        _service(plan, "inference", after=(*stores, *(part.node.name for part in runtime))),
        _service(plan, "sandbox", after=()),
        _service(plan, "agent", after=stores),
        _edge(plan),
        *(observers(plan) if plan.settings.observes else ()),
    )


def _postgres(plan: Plan) -> Part:
    data, password = plan.settings.home / "data" / "postgres", plan.secrets.path("postgres_password")
    port = plan.ports["postgres"]
    return Part(
        node=Node(name="postgres", has_preparation=True, stop_within_s=15.0),
        prepare=_python(plan, "deploy.local.postgres", str(data), str(password)),
        run=Command(argv=postgres.command(port=port), env=FOR_SERVERS, guard=postgres.guard(data)),
        probe=PostgresProbe(port, str(password)),
        port=port,
        port_variable=port_variable("postgres"),
        stop_signal=signal.SIGINT,
    )


def _redis(plan: Plan) -> Part:
    port = plan.ports["redis"]
    guard = redis.guard(plan.secrets.path("redis.conf"))
    return Part(
        node=Node(name="redis"),
        run=Command(argv=redis.command(), env=FOR_SERVERS, guard=guard),
        probe=RedisProbe(port, str(plan.secrets.path("redis_password"))),
        port=port,
        port_variable=port_variable("redis"),
    )


def _runtime(plan: Plan) -> Part:
    models, port = str(plan.settings.cache / "models"), plan.ports["runtime"]
    listen = f"127.0.0.1:{port}"
    prepare = None
    if plan.source.kind is SourceKind.EMBEDDED:
        prepare = _python(plan, "deploy.local.models", models, settings=_index(plan))
        run = _python(plan, RUNTIME_MODULE, "--listen", listen, "--models", models)
    else:
        env = for_programs(plan.settings.inherited, {"OLLAMA_HOST": listen, **_limits(plan)}, {})
        # Asked to end, it also ends the runners that hold the models.
        run = Command(argv=(plan.source.program, "serve"), env=env, guard=Guard(orphan_signal=signal.SIGTERM))
    return Part(
        node=Node(name="runtime", has_preparation=prepare is not None),
        prepare=prepare,
        run=run,
        probe=HttpProbe(port, "/", "Ollama is running"),
        port=port,
        port_variable=port_variable("runtime"),
    )


def _index(plan: Plan) -> dict[str, str]:
    """Where packages come from. It may hold a password: only who fetches packages is told."""
    return {k: v for k, v in plan.settings.inherited.items() if k.startswith(("UV_", "PIP_"))}


def _limits(plan: Plan) -> dict[str, object]:
    """What our Ollama takes at once, unless a person said so: as much as the inference service sends it."""
    inherited = plan.settings.inherited
    limits = {
        "OLLAMA_NUM_PARALLEL": inherited.get("OLLAMESH_INSTANCE_SLOTS") or DEFAULT_SLOTS,
        "OLLAMA_MAX_LOADED_MODELS": LOADED_MAX,
    }
    return {name: inherited.get(name) or limit for name, limit in limits.items()}


def _migrate(plan: Plan) -> Part:
    passwords = {f"OLLAMESH_{name.upper()}_DB_PASSWORD": f"{name}_db_password" for name in MIGRATED}
    passwords[MONITOR] = "monitor_db_password"
    secrets = {"OLLAMESH_ADMIN_DATABASE_URL": "admin_database_url", **passwords}
    return Part(
        node=Node(name="migrate", after=("postgres",), one_shot=True, start_within_s=300.0),
        run=_python(plan, "deploy.migrations", secrets=secrets),
    )


def _traces(plan: Plan) -> Part:
    settings, port = plan.settings, plan.ports["traces"]
    arguments = ("--port", port, "--home", settings.home)
    bounds = ("--bytes", settings.traces_bytes, "--age", settings.traces_age_s)
    return Part(
        node=Node(name="traces"),
        run=_python(plan, "deploy.local.traces", *map(str, (*arguments, *bounds))),
        probe=GrpcProbe(port, "127.0.0.1"),
        port=port,
        port_variable=port_variable("traces"),
    )


def _tracing(plan: Plan) -> dict[str, object]:
    """Where spans go; if not to us, a person has said where, or that none are wanted."""
    return {OTLP_TARGET: f"127.0.0.1:{plan.ports['traces']}"} if plan.settings.keeps_traces else {}


def _service(plan: Plan, name: str, *, after: tuple[str, ...]) -> Part:
    prepare = None
    settings: dict[str, object] = {
        "OLLAMESH_BIND": plan.settings.bind,
        "OLLAMESH_ISSUER": plan.issuer,
        # With one replica of each, nobody else would be asked meanwhile.
        "OLLAMESH_LAME_DUCK_S": plan.settings.inherited.get("OLLAMESH_LAME_DUCK_S") or 0.5,
        "OLLAMESH_AUDIT_SPOOL": plan.settings.home / "data" / "audit",
        **identities.variables(plan.settings, name),
        **_tracing(plan),
        **_ports(plan, name, f"{name}_metrics"),
        **{f"OLLAMESH_{called.upper()}_TARGET": plan.target(called) for called in CALLS[name]},
    }
    if name == "inference":
        settings |= {"OLLAMA_HOSTS": plan.ollama_hosts, "OLLAMA_GPUS": plan.source.gpus}
        settings |= process_variables(plan.ports)
        if plan.source.gpus:
            settings |= _ports(plan, "runtime")
        if key := plan.settings.inherited.get("OLLAMA_API_KEY"):
            settings["OLLAMA_API_KEY"] = key
    if name == "auth":
        folder = plan.settings.inherited.get("OLLAMESH_BACKUP_FOLDER") or plan.settings.home / "backups"
        settings["OLLAMESH_BACKUP_METRICS_FILE"] = Path(folder) / "metrics" / "ollamesh_backup.prom"
    if name == "sandbox":
        root = plan.settings.cache / "sandbox"
        prepare = _python(plan, "services.sandbox.rootfs", "--into", str(root), settings=_index(plan))
        wanted = plan.settings.inherited.get("OLLAMESH_SANDBOX_PROFILES") or "all"
        settings |= {"OLLAMESH_SANDBOX_ROOT": root, "OLLAMESH_SANDBOX_PROFILES": wanted}
    # Whoever sends spans is stopped before those who keep them.
    uses = (*CALLS[name], *(("traces",) if plan.settings.keeps_traces else ()))
    return Part(
        node=Node(name=name, after=after, uses=uses, has_preparation=bool(prepare), stop_within_s=30.0),
        prepare=prepare,
        run=_python(plan, f"services.{name}", settings=settings, secrets=SECRETS[name]),
        probe=_grpc_probe(plan, name),
        port=plan.ports[name],
        port_variable=port_variable(name),
        metrics=f"http://{plan.address(f'{name}_metrics')}/metrics",
        may_be_unfit=name == "sandbox",  # Some machines allow no jail; the rest works there too.
    )


def _grpc_probe(plan: Plan, name: str) -> GrpcProbe:
    if plan.settings.insecure_inside:
        return GrpcProbe(plan.ports[name], plan.host)
    as_operator = str(identities.files_of(plan.settings.home, OPERATOR).certificate.parent)
    trust = Inside(
        service=OPERATOR,
        files=None,
        trust_domain=plan.settings.trust_domain,
        namespace=plan.settings.namespace,
    )
    return GrpcProbe(plan.ports[name], plan.host, as_operator, trust.dns_name(name))


def _edge(plan: Plan) -> Part:
    configuration = plan.settings.home / "envoy.json"
    settings = {
        "OLLAMESH_BIND": plan.settings.bind,
        "OLLAMESH_ISSUER": plan.issuer,
        **identities.variables(plan.settings, "edge"),
        **_tracing(plan),
        **_ports(plan, "edge", "edge_tls", "admin", *CALLS),
        **process_variables(plan.ports),
        "OLLAMESH_INSECURE_EDGE": str(plan.settings.insecure_edge).lower(),
        "OLLAMESH_EDGE_FOLDER": plan.edge_folder,
        "OLLAMESH_EDGE_DISCOVERY": "files",
        **_certificate(plan),
    }
    argv = (str(servers.envoy()), str(configuration), "--concurrency", "1")
    return Part(
        node=Node(name="edge", after=tuple(CALLS), has_preparation=True),
        prepare=_python(plan, "deploy.envoy", "--write", settings=settings, output=configuration),
        run=_python(plan, "deploy.envoy.serve", *argv, settings=settings),
        probe=HttpProbe(plan.ports["admin"], "/ready", "LIVE"),
        port=plan.ports["edge"],
        port_variable=port_variable("edge"),
        metrics=f"http://127.0.0.1:{plan.ports['admin']}/stats/prometheus?usedonly",
    )


def _certificate(plan: Plan) -> dict[str, object]:
    """Somebody's own, or ours."""
    inherited = plan.settings.inherited
    if inherited.get("OLLAMESH_EDGE_CERT_FILE") or inherited.get("OLLAMESH_EDGE_KEY_FILE"):
        return {}
    return {
        "OLLAMESH_EDGE_CERT_FILE": plan.certificate.certificate,
        "OLLAMESH_EDGE_KEY_FILE": plan.certificate.key,
        # Browsers would keep it in mind for every port of this machine, and refuse all that has no TLS.
        "OLLAMESH_EDGE_HSTS_S": 0,
    }


def _ports(plan: Plan, *names: str) -> dict[str, object]:
    return {port_variable(name): plan.ports[name] for name in names}


def _python(
    plan: Plan,
    module: str,
    *arguments: str,
    settings: Mapping[str, object] | None = None,
    secrets: Mapping[str, str] | None = None,
    output: Path | None = None,
) -> Command:
    files = {name: plan.secrets.path(file) for name, file in (secrets or {}).items()}
    return Command(
        argv=(sys.executable, "-m", module, *arguments),
        env=for_programs(plan.settings.inherited, settings or {}, files),
        guard=Guard(folder=str(ROOT)),
        output=output,
    )
