"""What a person may set, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deploy.local.errors import SettingsError
from services.common.config import ConfigError, Environment
from services.common.process_ports import PROCESSES_MAX, process_ports

ROOT = Path(__file__).resolve().parents[2]
# Each is moved by OLLAMESH_<NAME>_PORT; 0 means any that is free.
DEFAULT_PORTS = {
    "edge": 8080,
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
}
PORT_MAX = 65535
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
            look_for_ollama=not env.flag("OLLAMESH_EMBEDDED_MODELS", default=False),
            inherited=dict(variables),
        )
        try:
            env.check()
        except ConfigError as error:
            raise SettingsError(str(error)) from error
        return settings

    def variables(self) -> dict[str, str]:
        """An environment from which `from_env` makes these settings again."""
        return {
            **self.inherited,
            "OLLAMESH_HOME": str(self.home),
            "OLLAMESH_CACHE": str(self.cache),
            "OLLAMESH_BIND": self.bind,
            "OLLAMA_HOSTS": self.ollama_hosts,
            "OLLAMA_GPUS": self.ollama_gpus,
            "OLLAMESH_EMBEDDED_MODELS": str(not self.look_for_ollama).lower(),
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
