"""Every knob of the service, read once, at the start."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from services.common.auditing.config import AuditConfig
from services.common.config import Environment
from services.common.grpc.keys import TrustConfig
from services.common.grpc.server import ServerConfig
from services.sandbox.core.limits import MEMORY_BYTES_MIN, MIB, Limits

MEMORY_MIB = 512
ENGINES = ("ns", "gvisor", "runtimeclass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    server: ServerConfig
    trust: TrustConfig
    root: Path  # With a folder for each profile; see services.sandbox.profiles.
    profiles: tuple[str, ...]  # To be served.
    engines: tuple[str, ...]  # To be offered, strongest first.
    cap: Limits  # What an execution gets; callers may only lower it.
    running_max: int  # Executions that have a jail. Times the memory limit, this is what they may use.
    waiting_max: int  # Executions that wait for one.
    warm_count: int  # Jails kept ready.
    runsc: Path | None = None  # For the engine gvisor; None: the one in PATH.
    gvisor_warm_count: int = 2  # Its jails are dear: a quarter of a second of a processor, and 100 MiB each.
    audit: AuditConfig = field(default_factory=AuditConfig)

    @classmethod
    def read(cls, env: Environment) -> Self:
        prefix = "OLLAMESH_SANDBOX"
        memory_mib = env.integer(f"{prefix}_MEMORY_MIB", MEMORY_MIB, low=MEMORY_BYTES_MIN // MIB)
        wall_s = env.seconds(f"{prefix}_WALL_S", 10, low=0.1, high=3600)
        return cls(
            server=ServerConfig.read(env, "sandbox", port=50054, metrics_port=9464),
            trust=TrustConfig.read(env),
            audit=AuditConfig.read(env),
            root=Path(env.text(f"{prefix}_ROOT")),
            profiles=tuple(env.text(f"{prefix}_PROFILES", "python").split(",")),
            engines=_engines(env, f"{prefix}_ENGINES"),
            cap=Limits(wall_s=wall_s, memory_bytes=memory_mib * MIB),
            running_max=env.integer(f"{prefix}_RUNNING_MAX", 8, low=1, high=1024),
            waiting_max=env.integer(f"{prefix}_WAITING_MAX", 64, high=4096),
            warm_count=env.integer(f"{prefix}_WARM_COUNT", 4, low=1, high=256),
            runsc=Path(runsc) if (runsc := env.optional(f"{prefix}_RUNSC")) else None,
            gvisor_warm_count=env.integer(f"{prefix}_GVISOR_WARM_COUNT", 2, low=1, high=64),
        )


def _engines(env: Environment, name: str) -> tuple[str, ...]:
    engines = tuple(env.text(name, "ns").split(","))
    if not set(engines) <= set(ENGINES):
        env.reject(name, f"names an engine that is none of {', '.join(ENGINES)}")
    return engines
