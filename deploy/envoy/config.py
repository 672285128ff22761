"""What the edge needs to know, read once from the environment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from services.common.config import Environment
from services.common.inside import Inside, is_loopback
from services.common.process_ports import process_ports

SERVICES = ("auth", "agent", "inference", "sandbox")
BLUE, GREEN = SETS = ("blue", "green")  # Of a service's replicas: sets.py.
FIRST_PORT = 50051
WITH_PROCESSES = "inference"  # The service that can be several processes on one machine.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - Where one reaches who listens everywhere.
HSTS_S, HSTS_S_MAX = 365 * 86_400, 10 * 365 * 86_400
HEAP_MIB, CONNECTIONS_MAX = 512, 10_000


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The listener for everybody. The files may change while Envoy runs."""

    listen: Endpoint
    certificate: Path
    key: Path
    client_ca: Path | None  # Who signs the callers' certificates, if they are asked for one.
    requires_client: bool  # Else a caller may also come without.
    hsts_s: int  # For how long browsers shall not come without TLS; 0 says nothing of it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    heap_mib: int = HEAP_MIB
    connections_max: int = CONNECTIONS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Green:
    """The second set of a service's replicas, beside those of `upstreams`, and its share of the calls."""

    replicas: tuple[Endpoint, ...]
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    listen: Endpoint  # Plain text, so on loopback, unless somebody insists.
    tls: Tls | None
    admin_port: int  # On loopback, always.
    issuer: str
    upstreams: Mapping[str, tuple[Endpoint, ...]]  # Replicas, by service.
    keys_timeout_s: float  # For auth to change an API key for a token.
    rates_timeout_s: float  # For auth to say whether a request fits its rate. Auth allows its Redis 0.04.
    cors_origins: tuple[str, ...]  # `*` in the place of a port stands for any.
    inside: Inside  # Who the edge is to the services.
    greens: Mapping[str, Green] = field(default_factory=dict)  # The second set of replicas, by service.
    folder: Path | None = None  # Of the files that Envoy watches: files.py. Without it there are none.
    watches_endpoints: bool = False  # Replicas come from such files; else from the settings, by DNS.
    otlp: Endpoint | None = None  # Who collects traces.
    trace_percent: float = 100.0
    limits: Limits = field(default_factory=Limits)
    proxies_before: int = 0  # Balancers that say in x-forwarded-for whom they speak for.
    drains_at_stop: bool = False  # Its keeper asks it to, on the admin port.
    metrics: Endpoint | None = None  # Where scrapers elsewhere read the figures; else on loopback only.

    @classmethod
    def read(cls, env: Environment) -> Self:
        bind = env.text("OLLAMESH_BIND", "127.0.0.1").strip("[]")
        folder = env.optional("OLLAMESH_EDGE_FOLDER")
        tls = _tls(env, bind, has_folder=folder is not None)
        upstreams = {
            name: _replicas(env, name, Endpoint(LOOPBACK.get(bind, bind), FIRST_PORT + n))
            for n, name in enumerate(SERVICES)
        }
        greens = {name: green for name in SERVICES if (green := _green(env, name)) is not None}
        return cls(
            listen=Endpoint(
                _plain_host(env, bind, has_tls=tls is not None),
                env.integer("OLLAMESH_EDGE_PORT", 8080, high=65_535),
            ),
            tls=tls,
            admin_port=env.integer("OLLAMESH_ADMIN_PORT", 9901, high=65_535),
            issuer=env.text("OLLAMESH_ISSUER", "http://ollamesh"),
            upstreams=upstreams,
            greens=greens,
            keys_timeout_s=env.seconds("OLLAMESH_EDGE_KEYS_TIMEOUT_S", 0.25, low=0.01, high=10),
            rates_timeout_s=env.seconds("OLLAMESH_EDGE_RATES_TIMEOUT_S", 0.2, low=0.01, high=10),
            cors_origins=tuple(
                env.text("OLLAMESH_CORS_ORIGINS", "http://localhost:*,http://127.0.0.1:*").split(",")
            ),
            inside=_inside(
                env,
                [*upstreams.values(), *(green.replicas for green in greens.values())],
                has_folder=folder is not None,
            ),
            folder=Path(folder).absolute() if folder is not None else None,
            watches_endpoints=_watches_endpoints(env, has_folder=folder is not None),
            otlp=_otlp(env),
            trace_percent=env.number("OLLAMESH_TRACE_PERCENT", 100, low=0, high=100),
            proxies_before=env.integer("OLLAMESH_EDGE_PROXIES_BEFORE", 0, high=10),
            drains_at_stop=env.seconds("OLLAMESH_EDGE_STOP_DRAIN_S", 0) > 0,
            metrics=_metrics(env, bind),
            limits=Limits(
                heap_mib=env.integer("OLLAMESH_EDGE_HEAP_MIB", HEAP_MIB, low=64, high=1 << 20),
                connections_max=env.integer(
                    "OLLAMESH_EDGE_CONNECTIONS_MAX", CONNECTIONS_MAX, low=10, high=1 << 20
                ),
            ),
        )


def parse_endpoint(text: str) -> Endpoint | None:
    """`host:port`, with an IPv6 address in brackets; None if it is nothing of the kind."""
    host, _, port = text.strip().rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        return None
    return Endpoint(host.strip("[]"), int(port))


def _plain_host(env: Environment, bind: str, *, has_tls: bool) -> str:
    """Where plain text is spoken. Others than this machine get it only from who said that it is insecure."""
    if is_loopback(bind) or env.flag("OLLAMESH_INSECURE_EDGE", default=False):
        return bind
    if not has_tls:
        env.reject(
            "OLLAMESH_BIND",
            "is not a loopback address, and there plain text is not spoken: "
            "give OLLAMESH_EDGE_CERT_FILE and OLLAMESH_EDGE_KEY_FILE, or say OLLAMESH_INSECURE_EDGE=true",
        )
    return "::1" if ":" in bind else "127.0.0.1"


def _tls(env: Environment, bind: str, *, has_folder: bool) -> Tls | None:
    certificate, key = env.optional("OLLAMESH_EDGE_CERT_FILE"), env.optional("OLLAMESH_EDGE_KEY_FILE")
    client_ca = env.optional("OLLAMESH_EDGE_CLIENT_CA")
    if certificate is None and key is None:
        if client_ca is not None:
            env.reject("OLLAMESH_EDGE_CLIENT_CA", "needs OLLAMESH_EDGE_CERT_FILE and OLLAMESH_EDGE_KEY_FILE")
        return None
    if certificate is None or key is None:
        missing = "OLLAMESH_EDGE_KEY_FILE" if key is None else "OLLAMESH_EDGE_CERT_FILE"
        env.reject(missing, "is not set")
    if not has_folder:
        env.reject(
            "OLLAMESH_EDGE_FOLDER", "is not set: Envoy watches files there to learn of new certificates"
        )
    return Tls(
        listen=Endpoint(bind, env.integer("OLLAMESH_EDGE_TLS_PORT", 8443, high=65_535)),
        certificate=Path(certificate or "").absolute(),
        key=Path(key or "").absolute(),
        client_ca=Path(client_ca).absolute() if client_ca is not None else None,
        requires_client=env.flag("OLLAMESH_EDGE_CLIENT_REQUIRED", default=True),
        hsts_s=env.integer("OLLAMESH_EDGE_HSTS_S", HSTS_S, high=HSTS_S_MAX),
    )


def _watches_endpoints(env: Environment, *, has_folder: bool) -> bool:
    found = env.text("OLLAMESH_EDGE_DISCOVERY", "dns")
    if found not in {"dns", "files"}:
        env.reject("OLLAMESH_EDGE_DISCOVERY", "is neither dns nor files")
    if found == "files" and not has_folder:
        env.reject("OLLAMESH_EDGE_FOLDER", "is not set: the replicas are to be read from files there")
    return found == "files"


def _otlp(env: Environment) -> Endpoint | None:
    if (given := env.optional("OLLAMESH_OTLP_TARGET")) is None:
        return None
    if (found := parse_endpoint(given)) is None:
        env.reject("OLLAMESH_OTLP_TARGET", "is not host:port")
    return found


def _metrics(env: Environment, bind: str) -> Endpoint | None:
    port = env.integer("OLLAMESH_EDGE_METRICS_PORT", 0, high=65_535)
    return Endpoint(bind, port) if port else None


def _inside(env: Environment, called: Iterable[tuple[Endpoint, ...]], *, has_folder: bool) -> Inside:
    hosts = {replica.host for replicas in called for replica in replicas}
    inside = Inside.read(env, "edge", plain_hosts=hosts, look=False)  # Where Envoy runs, perhaps not here.
    if inside.files is not None and not has_folder:
        env.reject(
            "OLLAMESH_EDGE_FOLDER", "is not set: Envoy watches files there to learn of new certificates"
        )
    return inside


def _replicas(env: Environment, service: str, default: Endpoint) -> tuple[Endpoint, ...]:
    """`OLLAMESH_X_REPLICAS` as host:port pairs, or the one at `OLLAMESH_X_PORT` of this machine, or its processes."""
    name = f"OLLAMESH_{service.upper()}_REPLICAS"
    given = env.optional(name)
    if given is None and service == WITH_PROCESSES:
        ports = process_ports(env, service, default=default.port, low=1)
        return tuple(Endpoint(default.host, port) for port in ports)
    if given is None:
        port = env.integer(f"OLLAMESH_{service.upper()}_PORT", default.port, low=1, high=65_535)
        return (Endpoint(default.host, port),)
    return _listed(env, name, given) or (default,)


def _green(env: Environment, service: str) -> Green | None:
    """`OLLAMESH_X_GREEN_REPLICAS` as host:port pairs, and `OLLAMESH_X_GREEN_PERCENT` of the calls for them."""
    name, percent = f"OLLAMESH_{service.upper()}_GREEN_REPLICAS", f"OLLAMESH_{service.upper()}_GREEN_PERCENT"
    share = env.integer(percent, 0, high=100)
    if (given := env.optional(name)) is None:
        if share:
            env.reject(name, f"is not set: {percent} says that it gets calls")
        return None
    return Green(replicas=_listed(env, name, given), percent=share)


def _listed(env: Environment, name: str, given: str) -> tuple[Endpoint, ...]:
    found = [endpoint for pair in given.split(",") if (endpoint := parse_endpoint(pair)) is not None]
    if len(found) != len(given.split(",")):
        env.reject(name, "is not a list of host:port pairs")
        return ()
    return tuple(found)
