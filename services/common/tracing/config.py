"""What is traced, and who collects it: the same settings for every service."""

import re
from dataclasses import dataclass
from pathlib import Path

from services.common.config import Environment
from services.common.inside import is_loopback

TARGET, AUTHORITY, PERCENT = "OLLAMESH_OTLP_TARGET", "OLLAMESH_OTLP_CA", "OLLAMESH_TRACE_PERCENT"
_TARGET = re.compile(r"([^\s/:\[\]]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingConfig:
    target: str | None = (
        None  # Host and port of a collector that speaks OTLP over gRPC; None: nothing is traced.
    )
    authority: Path | None = None  # Who signs the collector's certificate; None: plain text.
    percent: float = 100.0  # Of the calls that bring no decision with them; the others follow their caller's.

    @classmethod
    def read(cls, env: Environment) -> "TracingConfig":
        target, authority = env.optional(TARGET), env.optional(AUTHORITY)
        if target is not None and not _TARGET.fullmatch(target):
            env.reject(TARGET, "is not host:port")
        if authority is not None and not Path(authority).is_file():
            env.reject(AUTHORITY, "is no file")
        return cls(
            target=target,
            authority=Path(authority) if authority is not None else None,
            percent=env.number(PERCENT, 100, low=0, high=100),
        )

    @property
    def is_exposed(self) -> bool:
        """Whether spans leave this machine as plain text."""
        host = (self.target or "").rpartition(":")[0]
        return self.target is not None and self.authority is None and not is_loopback(host)
