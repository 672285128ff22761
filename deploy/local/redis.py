"""The embedded Redis (Valkey): holds only what can be rebuilt, so it saves nothing to disk."""

import json
from pathlib import Path

from deploy.local import servers
from services.common.launch import Guard, server_uid

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


def configuration(*, port: int, password: str) -> str:
    return CONFIGURATION.format(port=port, password=password)


def for_exporter(*, port: int, password: str) -> str:
    """The file in which redis_exporter looks for the password of an address."""
    return json.dumps({f"redis://127.0.0.1:{port}": password})


def command() -> tuple[str, ...]:
    """The server's command; to be started with `guard(file)`, where the file holds the configuration."""
    return (str(servers.valkey()), "-")


def guard(file: Path) -> Guard:
    return Guard(uid=server_uid(), stdin=str(file), folder="/")
