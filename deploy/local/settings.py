"""What a person may set, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deploy.local.errors import SettingsError
from services.common.config import ConfigError, Environment

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


def port_variable(name: str) -> str:
    return f"OLLAMESH_{name.upper()}_PORT"


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
            ports={
                name: env.integer(port_variable(name), default, low=0, high=PORT_MAX)
                for name, default in DEFAULT_PORTS.items()
            },
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
            **{port_variable(name): str(port) for name, port in self.ports.items()},
        }
