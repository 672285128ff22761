"""The embedded Redis (Valkey): holds only what can be rebuilt, so it saves nothing to disk."""

import os
from pathlib import Path

from deploy.local import servers
from deploy.local.launch import Guard, server_uid

# `volatile-lru`: when the memory is full, keys that expire anyway go first; what has no expiry stays.
CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
save ""
appendonly no
maxmemory 256mb
maxmemory-policy volatile-lru
"""


def url(*, port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def write_configuration(path: Path, *, port: int, password: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(CONFIGURATION.format(port=port, password=password))


def command() -> tuple[str, ...]:
    """The server's command; to be started with `guard(configuration)`."""
    return (str(servers.valkey()), "-")


def guard(configuration: Path) -> Guard:
    return Guard(uid=server_uid(), stdin=str(configuration), folder="/")
