"""Every knob of the service, read once, at the start."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from services.common.auditing.config import AuditConfig
from services.common.config import Environment
from services.common.grpc.keys import TrustConfig
from services.common.grpc.server import ServerConfig
from services.sandbox import profiles
from services.sandbox.admission_config import (
    WARM_JAIL_BYTES,
    read_bounds,
    read_keeping,
    read_result_bounds,
)
from services.sandbox.core.admission import Bounds
from services.sandbox.core.keeping import Keeping
from services.sandbox.core.kept_results import ResultBounds
from services.sandbox.core.limits import MIB, Limits
from services.sandbox.limits_config import RoleCaps, read_caps
from services.sandbox.sessions import SessionSettings

ENGINES = ("ns", "gvisor", "runtimeclass")
GVISOR_JAIL_BYTES = 100 * MIB  # What a warm one holds, most of it gVisor's own.


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    server: ServerConfig
    trust: TrustConfig
    root: Path  # With a folder for each profile; see services.sandbox.profiles.
    profiles: tuple[str, ...]  # To be served.
    others_on_demand: bool  # All but the first of them start when they are first used.
    engines: tuple[str, ...]  # To be offered, strongest first.
    caps: RoleCaps
    bounds: Bounds
    warm_count: int  # Jails kept ready.
    runsc: Path | None = None  # For the engine gvisor; None: the one in PATH.
    gvisor_warm_count: int = 2  # Its jails are dear: a quarter of a second of a processor, and 100 MiB each.
    keeping: Keeping = field(default_factory=Keeping)
    result_bounds: ResultBounds = field(default_factory=ResultBounds)
    audit: AuditConfig = field(default_factory=AuditConfig)
    sessions: SessionSettings = field(default_factory=SessionSettings)
    file_bytes_max: int = 32 * MIB  # Of one file that is put into a session.

    @property
    def usual(self) -> Limits:
        """What an execution gets that asks for nothing."""
        return self.caps.usual

    @property
    def session_caps(self) -> RoleCaps:
        """What sessions get, for which there is less memory than for executions."""
        return self.caps.within(self.bounds.session_memory_bytes)

    @classmethod
    def read(cls, env: Environment) -> Self:
        prefix = "OLLAMESH_SANDBOX"
        root = Path(env.text(f"{prefix}_ROOT"))
        wanted = tuple(env.text(f"{prefix}_PROFILES", profiles.USUAL).split(","))
        served = profiles.names(root, wanted)
        engines = _engines(env, f"{prefix}_ENGINES")
        warm_count = env.integer(f"{prefix}_WARM_COUNT", 8, low=1, high=256)
        gvisor_warm_count = env.integer(f"{prefix}_GVISOR_WARM_COUNT", 2, low=1, high=64)
        held = {"gvisor": gvisor_warm_count * GVISOR_JAIL_BYTES}
        caps = read_caps(env)
        bounds = read_bounds(
            env,
            caps,
            warm_bytes=len(served) * sum(held.get(name, warm_count * WARM_JAIL_BYTES) for name in engines),
        )
        return cls(
            server=ServerConfig.read(env, "sandbox", port=50054, metrics_port=9464),
            trust=TrustConfig.read(env),
            audit=AuditConfig.read(env),
            sessions=_sessions(env, f"{prefix}_SESSION"),
            file_bytes_max=env.integer(f"{prefix}_FILE_MIB", 32, low=1, high=1024) * MIB,
            root=root,
            profiles=served,
            others_on_demand=wanted == (profiles.ALL,),
            engines=engines,
            caps=caps.within(bounds.memory_bytes),
            bounds=bounds,
            warm_count=warm_count,
            runsc=Path(runsc) if (runsc := env.optional(f"{prefix}_RUNSC")) else None,
            keeping=read_keeping(env),
            result_bounds=read_result_bounds(env),
            gvisor_warm_count=gvisor_warm_count,
        )


def _sessions(env: Environment, prefix: str) -> SessionSettings:
    return SessionSettings(
        idle_s=env.seconds(f"{prefix}_IDLE_S", 600, low=0.1, high=86_400),
        life_s=env.seconds(f"{prefix}_LIFE_S", 3600, low=0.1, high=86_400),
        per_user_max=env.integer(f"{prefix}S_MAX", 4, low=1, high=1024),
        total_max=env.integer(f"{prefix}S_TOTAL_MAX", 16, low=1, high=4096),
    )


def _engines(env: Environment, name: str) -> tuple[str, ...]:
    engines = tuple(env.text(name, "ns").split(","))
    if not set(engines) <= set(ENGINES):
        env.reject(name, f"names an engine that is none of {', '.join(ENGINES)}")
    return engines
