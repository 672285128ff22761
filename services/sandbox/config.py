"""Every knob of the service, read once, at the start."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from services.common.auditing.config import AuditConfig
from services.common.config import Environment
from services.common.grpc.keys import TrustConfig
from services.common.grpc.server import ServerConfig
from services.sandbox.core.limits import MEMORY_BYTES_MIN, MIB, Limits
from services.sandbox.sessions import SessionSettings

MEMORY_MIB = 512


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
    audit: AuditConfig = field(default_factory=AuditConfig)
    sessions: SessionSettings = field(default_factory=SessionSettings)
    file_bytes_max: int = 32 * MIB  # Of one file that is put into a session.

    @classmethod
    def read(cls, env: Environment) -> Self:
        prefix = "OLLAMESH_SANDBOX"
        memory_mib = env.integer(f"{prefix}_MEMORY_MIB", MEMORY_MIB, low=MEMORY_BYTES_MIN // MIB)
        wall_s = env.seconds(f"{prefix}_WALL_S", 10, low=0.1, high=3600)
        return cls(
            server=ServerConfig.read(env, "sandbox", port=50054, metrics_port=9464),
            trust=TrustConfig.read(env),
            audit=AuditConfig.read(env),
            sessions=_sessions(env, f"{prefix}_SESSION"),
            file_bytes_max=env.integer(f"{prefix}_FILE_MIB", 32, low=1, high=1024) * MIB,
            root=Path(env.text(f"{prefix}_ROOT")),
            profiles=tuple(env.text(f"{prefix}_PROFILES", "python").split(",")),
            engines=tuple(env.text(f"{prefix}_ENGINES", "ns").split(",")),
            cap=Limits(wall_s=wall_s, memory_bytes=memory_mib * MIB),
            running_max=env.integer(f"{prefix}_RUNNING_MAX", 8, low=1, high=1024),
            waiting_max=env.integer(f"{prefix}_WAITING_MAX", 64, high=4096),
            warm_count=env.integer(f"{prefix}_WARM_COUNT", 4, low=1, high=256),
        )


def _sessions(env: Environment, prefix: str) -> SessionSettings:
    return SessionSettings(
        idle_s=env.seconds(f"{prefix}_IDLE_S", 600, low=0.1, high=86_400),
        life_s=env.seconds(f"{prefix}_LIFE_S", 3600, low=0.1, high=86_400),
        per_user_max=env.integer(f"{prefix}S_MAX", 4, low=1, high=1024),
        total_max=env.integer(f"{prefix}S_TOTAL_MAX", 16, low=1, high=4096),
    )
