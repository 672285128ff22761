"""What the migrations need to know, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from services.common.config import ConfigError, Environment

SERVICES = ("auth", "agent", "inference")
MONITOR = "OLLAMESH_MONITOR_DB_PASSWORD"


class MigrationError(Exception):
    """One sentence for the operator; raising is the whole act."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    admin_dsn: str = field(repr=False)  # A superuser's DSN of the database to migrate; made if absent.
    passwords: Mapping[str, str] = field(repr=False)  # By service.
    monitor_password: str | None = field(default=None, repr=False)  # Of the exporter's role, if there is one.
    lock_wait_s: int = 60  # Longest wait for another runner; its migrations are bounded by people.

    @classmethod
    def from_env(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Raises MigrationError naming everything that is missing or wrong, and no value."""
        env = Environment(variables)
        names = {service: f"OLLAMESH_{service.upper()}_DB_PASSWORD" for service in SERVICES}
        config = cls(
            admin_dsn=env.url("OLLAMESH_ADMIN_DATABASE_URL", "postgresql", "postgres"),
            passwords={service: env.secret(name, bytes_min=16) for service, name in names.items()},
            monitor_password=env.secret(MONITOR, bytes_min=16) if env.optional(MONITOR) else None,
        )
        try:
            env.check()
        except ConfigError as error:
            raise MigrationError(str(error)) from error
        # PostgreSQL would normalise other characters before hashing (SASLprep); we hash ourselves.
        given = {names[service]: value for service, value in config.passwords.items()}
        given[MONITOR] = config.monitor_password or ""
        if odd := [name for name, value in given.items() if not (value.isascii() and value.isprintable())]:
            raise MigrationError(f"only printable ASCII is allowed in {', '.join(odd)}")
        return config
