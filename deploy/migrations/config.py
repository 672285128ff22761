"""What the migrations need to know, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

SERVICES = ("auth", "agent", "inference")


class MigrationError(Exception):
    """One sentence for the operator; raising is the whole act."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    admin_dsn: str = field(repr=False)  # A superuser's DSN of the database to migrate; made if absent.
    passwords: Mapping[str, str] = field(repr=False)  # By service.
    lock_wait_s: int = 60  # Longest wait for another runner; its migrations are bounded by people.

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Self:
        """Every `X` may be given as `X_FILE`. Raises MigrationError naming all that are missing."""
        names = {service: f"OLLAMESH_{service.upper()}_DB_PASSWORD" for service in SERVICES}
        admin = "OLLAMESH_ADMIN_DATABASE_URL"
        values = {name: _read(env, name) for name in (admin, *names.values())}
        if missing := [name for name, value in values.items() if not value]:
            raise MigrationError(f"not set: {', '.join(missing)}")
        # PostgreSQL normalises other passwords before hashing (SASLprep); we hash them ourselves.
        if weird := [
            name for name in names.values() if not (values[name].isascii() and values[name].isprintable())
        ]:
            raise MigrationError(f"only printable ASCII is allowed in: {', '.join(weird)}")
        return cls(admin_dsn=values[admin], passwords={s: values[name] for s, name in names.items()})


def _read(env: Mapping[str, str], name: str) -> str:
    if path := env.get(f"{name}_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise MigrationError(f"{name}_FILE cannot be read: {error.strerror}") from error
    return env.get(name, "")
