"""Where the mesh is, and who is calling: from the options, the environment and the local stack.

A secret goes only where it belongs: the stack's password to an address of this machine, a saved login to
the mesh that gave it.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clients.cli.failures import Denied

if TYPE_CHECKING:
    from deploy.local.board import Board

DEFAULT_HOME = Path(__file__).parents[2] / ".ollamesh"
DEFAULT_EDGE = "http://127.0.0.1:8080"
ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What `ollamesh login` saved."""

    edge: str
    username: str
    token: str = field(repr=False)
    expires_at_s: float  # Since the epoch.
    refresh_token: str = field(repr=False, default="")  # Empty: when the token expires, the login is over.


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    home: Path
    edge_given: str | None
    token_given: str | None
    ca_given: Path | None = None

    @property
    def edge(self) -> str:
        """The address of the mesh."""
        if self.edge_given:
            return self.edge_given.rstrip("/")
        local = self._local()
        return local.edge if local is not None else DEFAULT_EDGE

    @property
    def ca(self) -> Path | None:
        """Who signs the mesh's certificate; None if this system is to know. The local stack's is in its home."""
        if self.ca_given is None and self._is_local and (path := self.home / "tls" / "ca.pem").exists():
            return path
        return self.ca_given

    def admin_password(self) -> str | None:
        """The local stack's, if it runs and it is its edge that is called: anybody may listen on a port."""
        if not self._is_local:
            return None
        try:
            return (self.home / "secrets" / "admin_password").read_text().strip()
        except OSError:
            return None

    @property
    def _is_local(self) -> bool:
        """Whether it is the local stack that is called, by either of its addresses."""
        local = self._local()
        return local is not None and self.edge in {local.edge, local.edge_tls}

    def _local(self) -> "Board | None":
        from deploy.local import board  # Here, for help has no use for it and should not wait.

        return board.of_running(self.home)

    def saved_login(self) -> Login | None:
        """The last login to this mesh. Raises Denied if it has expired and cannot be renewed."""
        try:
            login = Login(**json.loads(self.login_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        if login.edge != self.edge:
            return None
        if login.expires_at_s <= time.time() and not login.refresh_token:
            raise Denied(
                f"the login of {login.username} has expired; run `ollamesh login` again, "
                "or `ollamesh login --forget` to be the local stack's admin"
            )
        return login

    def save_login(self, login: Login) -> None:
        self.login_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        values = {name: getattr(login, name) for name in Login.__slots__}
        # Another command may be reading it: what it finds is whole, the old or the new.
        new = self.login_file.with_suffix(f".{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(values, file)
        new.replace(self.login_file)

    @property
    def login_file(self) -> Path:
        """Beside the local stack's secrets if there is one, else where programs keep such things."""
        if self.home.is_dir():
            return self.home / "secrets" / "login.json"
        return configuration_folder(os.environ) / "ollamesh" / "login.json"


def configuration_folder(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
