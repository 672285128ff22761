"""The stack's secrets: made once, one to a file that only its owner can read, never in an environment."""

import base64
import os
import secrets
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o700, 0o600
RANDOM = (
    "secret_key",
    "admin_password",
    "service_client_secret",
    "postgres_password",
    "redis_password",
    "auth_db_password",
    "agent_db_password",
    "inference_db_password",
    "monitor_db_password",
)
RANDOM_BYTES = 32


class SecretFiles:
    def __init__(self, home: Path) -> None:
        self.folder = home / "secrets"

    def create(self) -> None:
        """Make those that do not exist yet. What exists is never changed: data were made with it."""
        self.folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        for name in RANDOM:
            if not self.path(name).exists():
                self.write(name, self.random())
        if not self.path("encryption_key").exists():
            # Fernet's format: 32 bytes as URL-safe base64 with padding.
            self.write("encryption_key", base64.urlsafe_b64encode(os.urandom(32)).decode())

    @staticmethod
    def random() -> str:
        return secrets.token_urlsafe(RANDOM_BYTES)

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> str:
        return self.path(name).read_text()

    def write(self, name: str, value: str) -> Path:
        """By rename, so that a crash leaves no half of a secret."""
        unfinished = self.path(f"{name}.unfinished")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
            file.write(value)
        return unfinished.replace(self.path(name))

    def too_open(self) -> list[Path]:
        """The folder and files that somebody else may look into."""
        files = [self.folder, *self.folder.iterdir()] if self.folder.is_dir() else []
        return [path for path in files if path.stat().st_mode & 0o077]
