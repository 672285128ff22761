"""What a backup needs to know, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deploy.backup.errors import BackupError
from deploy.local.servers import postgres_folder
from services.common.config import ConfigError, Environment

PASSPHRASE_BYTES_MIN = 16
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    folder: Path  # Where backups lie: another disk, or a mounted share, than the data.
    passphrase: str = field(repr=False)  # Kept elsewhere than in what is backed up.
    admin_dsn: str = field(
        default="", repr=False
    )  # A role that may replicate; not needed to look or to restore.
    secrets: Path | None = None  # A folder of secret files to seal along.
    spool: Path | None = None  # Of WAL that is not sealed yet: as private as the data themselves.
    programs: Path | None = None  # The folder of PostgreSQL's programs; the embedded ones if not given.
    keep_count: int = 7
    bytes_max: int = 1 << 40  # Of the folder; a backup that would not fit is not begun.
    base_every_s: float = 86_400.0
    seal_every_s: float = 10.0  # At most so much is lost with the machine.
    metrics_host: str = LOOPBACK  # In a container, where only who scrapes reaches it, all of its addresses.
    metrics_port: int = 9466

    @classmethod
    def from_env(cls, variables: Mapping[str, str] = os.environ, *, live: bool) -> Self:
        """`live`: it talks to the database. Raises BackupError naming every mistake."""
        env = Environment(variables)
        home = env.optional("OLLAMESH_HOME")
        secrets = env.optional("OLLAMESH_BACKUP_SECRETS")
        spool = env.optional("OLLAMESH_BACKUP_SPOOL")
        programs = env.optional("OLLAMESH_PG_BIN")
        config = cls(
            folder=Path(env.text("OLLAMESH_BACKUP_FOLDER")).absolute(),
            passphrase=env.secret("OLLAMESH_BACKUP_PASSPHRASE", bytes_min=PASSPHRASE_BYTES_MIN),
            admin_dsn=env.url("OLLAMESH_ADMIN_DATABASE_URL", "postgresql", "postgres") if live else "",
            secrets=Path(secrets) if secrets else Path(home) / "secrets" if home else None,
            spool=Path(spool) if spool else Path(home) / "data" / "wal" if home else None,
            programs=Path(programs) if programs else None,
            keep_count=env.integer("OLLAMESH_BACKUP_KEEP", 7, low=1, high=1000),
            bytes_max=env.integer("OLLAMESH_BACKUP_MIB_MAX", 1 << 20, low=1, high=1 << 30) << 20,
            base_every_s=env.seconds("OLLAMESH_BACKUP_EVERY_S", 86_400, low=1, high=30 * 86_400),
            seal_every_s=env.seconds("OLLAMESH_BACKUP_SEAL_EVERY_S", 10, low=0.1, high=3600),
            metrics_host=env.text("OLLAMESH_BACKUP_METRICS_HOST", LOOPBACK),
            metrics_port=env.integer("OLLAMESH_BACKUP_METRICS_PORT", 9466, low=0, high=65_535),
        )
        try:
            env.check()
        except ConfigError as error:
            raise BackupError(str(error)) from error
        return config

    def program(self, name: str) -> str:
        return str((self.programs or postgres_folder()) / name)


def new_passphrase(variables: Mapping[str, str]) -> str:
    """What it is to be changed to. Raises BackupError."""
    env = Environment(variables)
    found = env.secret("OLLAMESH_BACKUP_NEW_PASSPHRASE", bytes_min=PASSPHRASE_BYTES_MIN)
    try:
        env.check()
    except ConfigError as error:
        raise BackupError(str(error)) from error
    return found
