"""What a person may set, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deploy.local.errors import SettingsError
from services.common.config import ConfigError, Environment
from services.common.inside import INSECURE, NAMESPACE, TRUST_DOMAIN, is_loopback
from services.common.process_ports import PROCESSES_MAX, process_ports

ROOT = Path(__file__).resolve().parents[2]
# Each is moved by OLLAMESH_<NAME>_PORT; 0 means any that is free.
DEFAULT_PORTS = {
    "edge": 8080,
    "edge_tls": 8443,
    "admin": 9901,
    "auth": 50051,
    "agent": 50052,
    "inference": 50053,
    "sandbox": 50054,
    "auth_metrics": 9461,
    "agent_metrics": 9462,
    "inference_metrics": 9463,
    "sandbox_metrics": 9464,
    "postgres": 55432,
    "redis": 56379,
    "runtime": 11434,
    "traces": 4317,
    "prometheus": 9090,
    "alertmanager": 9093,
    "postgres_exporter": 9187,
    "redis_exporter": 9121,
}
OBSERVERS = ("prometheus", "alertmanager", "postgres_exporter", "redis_exporter")
OTLP_TARGET = "OLLAMESH_OTLP_TARGET"
TRACES_BYTES, TRACES_AGE_S = 128 << 20, 3 * 86_400.0
PORT_MAX = 65535
CERTIFICATE_LIFE_S = 86_400.0  # Renewed at half of it.
# The processes of the inference service, each with a port: the first has its usual name.
PROCESSES = ("inference", *(f"inference_{number}" for number in range(2, PROCESSES_MAX + 1)))
PROCESS_PORTS, PROCESS_COUNT = "OLLAMESH_INFERENCE_PORTS", "OLLAMESH_INFERENCE_PROCESSES"


def port_variable(name: str) -> str:
    return PROCESS_PORTS if name in PROCESSES[1:] else f"OLLAMESH_{name.upper()}_PORT"


def process_variables(ports: Mapping[str, int]) -> dict[str, str]:
    """How the inference service and the edge are told of its processes."""
    found = [str(ports[name]) for name in PROCESSES if name in ports]
    return {PROCESS_COUNT: str(len(found)), PROCESS_PORTS: ",".join(found)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    home: Path  # Run-time state, logs and secrets of one stack.
    cache: Path  # Models and the sandbox's root, shared by all stacks of a user.
    bind: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))
    ollama_hosts: str = ""  # As given; empty means that the stack looks for one, or brings its own.
    ollama_gpus: str = ""  # As given; the inference service reads it.
    look_for_ollama: bool = True
    insecure_edge: bool = False  # Plain text wherever `bind` is, not on loopback only.
    insecure_inside: bool = False  # Plain text between the parts, for development.
    keeps_traces: bool = True  # Unless spans go to a collector of a person's own.
    traces_bytes: int = TRACES_BYTES
    traces_age_s: float = TRACES_AGE_S
    observes: bool = False  # Prometheus and its company are parts, too.
    certificate_life_s: float = CERTIFICATE_LIFE_S
    trust_domain: str = TRUST_DOMAIN
    namespace: str = NAMESPACE
    inherited: Mapping[str, str] = field(default_factory=dict, repr=False)  # What parts may need of it.

    @classmethod
    def from_env(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Raises SettingsError naming every mistake."""
        env = Environment(variables)
        settings = cls(
            home=Path(env.text("OLLAMESH_HOME", str(ROOT / ".ollamesh"))).absolute(),
            cache=Path(env.text("OLLAMESH_CACHE", str(ROOT / ".ollamesh" / "cache"))).absolute(),
            bind=env.text("OLLAMESH_BIND", "127.0.0.1"),
            ports=_ports(env),
            ollama_hosts=env.optional("OLLAMA_HOSTS") or env.optional("OLLAMA_HOST") or "",
            ollama_gpus=env.optional("OLLAMA_GPUS") or "",
            insecure_edge=env.flag("OLLAMESH_INSECURE_EDGE", default=False),
            look_for_ollama=not env.flag("OLLAMESH_EMBEDDED_MODELS", default=False),
            insecure_inside=env.flag(INSECURE, default=False),
            keeps_traces=env.flag("OLLAMESH_TRACES", default=True) and env.optional(OTLP_TARGET) is None,
            traces_bytes=env.integer("OLLAMESH_TRACES_BYTES", TRACES_BYTES, low=1 << 20, high=1 << 40),
            traces_age_s=env.seconds("OLLAMESH_TRACES_AGE_S", TRACES_AGE_S, low=60, high=365 * 86_400),
            observes=env.flag("OLLAMESH_OBSERVE", default=False),
            certificate_life_s=env.seconds(
                "OLLAMESH_CERTIFICATE_LIFE_S", CERTIFICATE_LIFE_S, low=60, high=90 * 86_400
            ),
            trust_domain=env.text("OLLAMESH_TRUST_DOMAIN", TRUST_DOMAIN),
            namespace=env.text("OLLAMESH_NAMESPACE", NAMESPACE),
            inherited=dict(variables),
        )
        if settings.insecure_inside and not is_loopback(settings.bind):
            env.reject(INSECURE, "is for loopback addresses only")
        try:
            env.check()
        except ConfigError as error:
            raise SettingsError(str(error)) from error
        return settings

    def wanted_ports(self, *, has_runtime: bool) -> dict[str, int]:
        """Those of the parts that there are to be."""
        absent = {
            *(() if has_runtime else ("runtime",)),
            *(() if self.keeps_traces else ("traces",)),
            *(() if self.observes else OBSERVERS),
        }
        return {name: port for name, port in self.ports.items() if name not in absent}

    def variables(self) -> dict[str, str]:
        """An environment from which `from_env` makes these settings again."""
        return {
            **self.inherited,
            "OLLAMESH_HOME": str(self.home),
            "OLLAMESH_CACHE": str(self.cache),
            "OLLAMESH_BIND": self.bind,
            "OLLAMA_HOSTS": self.ollama_hosts,
            "OLLAMA_GPUS": self.ollama_gpus,
            "OLLAMESH_INSECURE_EDGE": str(self.insecure_edge).lower(),
            "OLLAMESH_EMBEDDED_MODELS": str(not self.look_for_ollama).lower(),
            INSECURE: str(self.insecure_inside).lower(),
            "OLLAMESH_TRACES": str(self.keeps_traces).lower(),
            "OLLAMESH_TRACES_BYTES": str(self.traces_bytes),
            "OLLAMESH_TRACES_AGE_S": str(self.traces_age_s),
            "OLLAMESH_OBSERVE": str(self.observes).lower(),
            "OLLAMESH_CERTIFICATE_LIFE_S": str(self.certificate_life_s),
            "OLLAMESH_TRUST_DOMAIN": self.trust_domain,
            "OLLAMESH_NAMESPACE": self.namespace,
            **{port_variable(name): str(self.ports[name]) for name in DEFAULT_PORTS if name in self.ports},
            **process_variables(self.ports),
        }


def _ports(env: Environment) -> dict[str, int]:
    processes = process_ports(env, PROCESSES[0], default=DEFAULT_PORTS[PROCESSES[0]])
    others = {
        name: env.integer(port_variable(name), default, low=0, high=PORT_MAX)
        for name, default in DEFAULT_PORTS.items()
        if name != PROCESSES[0]
    }
    return {**others, **dict(zip(PROCESSES, processes, strict=False))}
