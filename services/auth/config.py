"""Every knob of the service, read once, at the start."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from services.auth.core.api_keys import ENVIRONMENT
from services.auth.core.keys import KEPT_S
from services.auth.core.rotation import LEAD_S
from services.auth.federation_config import FederationConfig, read_federation
from services.auth.quota_config import QuotaConfig
from services.common.auditing.config import AuditConfig
from services.common.config import Environment
from services.common.grpc.server import ServerConfig

PASSWORD_BYTES_MIN = 12
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    server: ServerConfig
    issuer: str  # Clients compare it with the URL they use, so behind a name it should be the edge's.
    quotas: QuotaConfig = field(default_factory=QuotaConfig)
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    encryption_keys: tuple[str, ...] = field(repr=False)  # The first seals, each opens.
    admin_password: str = field(repr=False)  # Only for the first start.
    service_client_secret: str = field(repr=False)  # Likewise.
    key_rotation_s: float = 0.0  # 0: signing keys follow each other only by command.
    key_lead_s: float = LEAD_S
    encryption_key_file: Path | None = None  # Where they are read again when it changes.
    environment: str = "live"  # Written into API keys: those of another one are not taken.
    audit: AuditConfig = field(default_factory=AuditConfig)
    backup_metrics_file: Path | None = None  # What was written down of the last backup.
    federation: FederationConfig | None = None  # People log in with local passwords only.

    @classmethod
    def read(cls, env: Environment) -> Self:
        return cls(
            server=ServerConfig.read(env, "auth", port=50051, metrics_port=9461),
            issuer=env.text("OLLAMESH_ISSUER", "http://ollamesh"),
            quotas=QuotaConfig.read(env),
            database_url=env.url("DATABASE_URL", "postgresql", "postgres"),
            secret_key=env.secret("SECRET_KEY"),
            encryption_keys=env.fernet_keys("ENCRYPTION_KEY"),
            encryption_key_file=env.file_of("ENCRYPTION_KEY"),
            admin_password=env.secret("OLLAMESH_ADMIN_PASSWORD", bytes_min=PASSWORD_BYTES_MIN),
            service_client_secret=env.secret("OLLAMESH_SERVICE_CLIENT_SECRET"),
            key_rotation_s=_rotation_s(env),
            environment=_environment(env),
            audit=AuditConfig.read(env),
            backup_metrics_file=_path(env, "OLLAMESH_BACKUP_METRICS_FILE"),
            federation=read_federation(env, issuer=env.text("OLLAMESH_ISSUER", "http://ollamesh")),
        )


def _rotation_s(env: Environment) -> float:
    name = "OLLAMESH_KEY_ROTATION_S"
    every_s = env.seconds(name, 30 * DAY_S, high=400 * DAY_S)
    if 0 < every_s < KEPT_S:  # Each is published until its last token is gone: so they stay a handful.
        env.reject(name, f"is neither 0 nor at least {KEPT_S}")
    return every_s


def _environment(env: Environment) -> str:
    name = env.text("OLLAMESH_ENVIRONMENT", "live")
    if ENVIRONMENT.fullmatch(name) is None:
        env.reject("OLLAMESH_ENVIRONMENT", "is not a word of up to 16 lower-case letters and digits")
    return name


def _path(env: Environment, name: str) -> Path | None:
    """One that may not be there yet."""
    given = env.optional(name)
    return Path(given) if given else None
