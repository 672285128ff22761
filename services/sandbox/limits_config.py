"""The knobs of limits: what an execution gets, and the most that the callers of each role may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from services.common.config import Environment
from services.common.tokens import Caller, Role
from services.sandbox.core.limits import (
    FILES_BYTES_MIN,
    MEMORY_BYTES_MIN,
    MIB,
    Caps,
    Limits,
    lowered,
)

PREFIX = "OLLAMESH_SANDBOX"
MEMORY_MIB = 512
ROLES = ("user", "admin", "service")
KIB = 1 << 10


class _Setting(NamedTuple):
    """One `name=value` of OLLAMESH_SANDBOX_LIMITS_ROLE."""

    field: str  # Of Limits.
    unit: int  # In what the field is counted in.
    low: float
    high: float


_SETTINGS: Mapping[str, _Setting] = {
    "wall_s": _Setting("wall_s", 1, 0.1, 3600),
    "cpu_s": _Setting("cpu_s", 1, 0.1, 3600),
    "memory_mib": _Setting("memory_bytes", MIB, MEMORY_BYTES_MIN / MIB, 1 << 20),
    "processes": _Setting("process_count", 1, 1, 4096),
    "output_kib": _Setting("output_bytes", KIB, 1, 64 * KIB),
    "files_mib": _Setting("files_bytes", MIB, FILES_BYTES_MIN / MIB, 64 * KIB),
}


@dataclass(frozen=True, slots=True)
class RoleCaps:
    """What callers get, by their role."""

    usual: Limits  # For whoever asks for nothing: jails are kept warm with these.
    by_role: Mapping[str, Caps]

    def of(self, who: Caller) -> Caps:
        if who.is_service:
            return self.by_role["service"]
        return self.by_role["admin" if who.role is Role.ADMIN else "user"]

    @property
    def memory_bytes_max(self) -> int:
        """The most that anybody may ask for."""
        return max(caps.most.memory_bytes for caps in self.by_role.values())

    def within(self, memory_bytes: int) -> "RoleCaps":
        """These, where there is no more memory than so much."""
        usual = replace(self.usual, memory_bytes=min(self.usual.memory_bytes, memory_bytes))
        most = {
            role: replace(caps.most, memory_bytes=min(caps.most.memory_bytes, memory_bytes))
            for role, caps in self.by_role.items()
        }
        return RoleCaps(
            usual, {role: Caps(usual=lowered(usual, most[role]), most=most[role]) for role in most}
        )


def read_caps(env: Environment) -> RoleCaps:
    usual = Limits(
        wall_s=env.seconds(f"{PREFIX}_WALL_S", 10, low=0.1, high=3600),
        memory_bytes=env.integer(f"{PREFIX}_MEMORY_MIB", MEMORY_MIB, low=MEMORY_BYTES_MIN // MIB) * MIB,
    )
    most = {role: _most(env, f"{PREFIX}_LIMITS_{role.upper()}", usual) for role in ROLES}
    return RoleCaps(usual, {role: Caps(usual=lowered(usual, most[role]), most=most[role]) for role in ROLES})


def _most(env: Environment, name: str, usual: Limits) -> Limits:
    """`usual`, but for what the setting `name` says."""
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, env.text(name, "").split(","))):
        key, _, text = part.partition("=")
        if (setting := _SETTINGS.get(key.strip())) is None:
            env.reject(name, f"names a limit that is none of {', '.join(_SETTINGS)}")
            continue
        try:
            value = float(text)
        except ValueError:
            env.reject(name, f"has no number for {key.strip()}")
            continue
        if not setting.low <= value <= setting.high:  # NaN fails this too.
            env.reject(name, f"has a {key.strip()} that is not between {setting.low:g} and {setting.high:g}")
            continue
        whole = setting.field not in {"wall_s", "cpu_s"}
        found[setting.field] = int(value * setting.unit) if whole else value
    return replace(usual, **found)
