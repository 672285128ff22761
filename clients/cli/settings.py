"""Where the mesh is, and who is calling: from the options, the environment and the local stack.

A secret goes only where it belongs: the stack's password to an address of this machine, a saved login to
the mesh that gave it.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clients.cli.failures import Denied

DEFAULT_HOME = Path(__file__).parents[2] / ".ollamesh"
DEFAULT_EDGE = "http://127.0.0.1:8080"
ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A token that `ollamesh login` saved."""

    edge: str
    username: str
    token: str
    expires_at_s: float  # Since the epoch.


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    home: Path
    edge_given: str | None
    token_given: str | None

    @property
    def edge(self) -> str:
        """The address of the mesh."""
        if self.edge_given:
            return self.edge_given.rstrip("/")
        return self._local_edge() or DEFAULT_EDGE

    def admin_password(self) -> str | None:
        """The local stack's, if it runs and it is its edge that is called: anybody may listen on a port."""
        if self.edge != self._local_edge():
            return None
        try:
            return (self.home / "secrets" / "admin_password").read_text().strip()
        except OSError:
            return None

    def _local_edge(self) -> str | None:
        from deploy.local import board  # Here, for help has no use for it and should not wait.

        running = board.of_running(self.home)
        return running.edge if running else None

    def saved_login(self) -> Login | None:
        """The last login to this mesh. Raises Denied if it has expired."""
        try:
            login = Login(**json.loads(self.login_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        if login.edge != self.edge:
            return None
        if login.expires_at_s <= time.time():
            raise Denied(
                f"the login of {login.username} has expired; run `ollamesh login` again, "
                "or `ollamesh login --forget` to be the local stack's admin"
            )
        return login

    def save_login(self, login: Login) -> None:
        self.login_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        values = {name: getattr(login, name) for name in Login.__slots__}
        descriptor = os.open(self.login_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(values, file)

    @property
    def login_file(self) -> Path:
        """Beside the local stack's secrets if there is one, else where programs keep such things."""
        if self.home.is_dir():
            return self.home / "secrets" / "login.json"
        return configuration_folder(os.environ) / "ollamesh" / "login.json"


def configuration_folder(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
