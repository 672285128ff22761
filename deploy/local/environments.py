"""What each process of the stack finds in its environment, and nothing it does not need.

A short list of what is passed on rather than a list of what is not: the shell of whoever runs `make up`
may hold other projects' secrets, and the sandbox's host process must not.
"""

import os
from collections.abc import Mapping
from pathlib import Path

PASSED_ON = frozenset({"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"})
PASSED_ON_PREFIXES = ("LC_", "XDG_", "OLLAMESH_", "OLLAMA_", "OTEL_")
# Of what would be passed on, what must reach only those who are given it by name.
PRIVATE_SUFFIXES = ("_PASSWORD", "_PASSPHRASE", "_SECRET", "_KEY", "_URL")
PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})
LOOPBACK = "127.0.0.1,localhost"
# Our servers need nothing of a person's; PostgreSQL would obey PGPORT and the like.
FOR_SERVERS = {"PATH": os.defpath}


def for_programs(
    inherited: Mapping[str, str], settings: Mapping[str, object], files: Mapping[str, Path]
) -> dict[str, str]:
    """Ours: `settings` by value, `files` as `X_FILE`. What we set is never overruled by what was inherited."""
    env = {name: value for name, value in inherited.items() if _passed_on(name)}
    for name in (*settings, *files):
        env.pop(name, None)
        env.pop(f"{name}_FILE", None)
    not_proxied = ",".join(filter(None, (inherited.get("no_proxy") or inherited.get("NO_PROXY"), LOOPBACK)))
    return {
        **env,
        "no_proxy": not_proxied,
        "NO_PROXY": not_proxied,
        "PYTHONUNBUFFERED": "1",
        **{name: str(value) for name, value in settings.items()},
        **{f"{name}_FILE": str(path) for name, path in files.items()},
    }


def _passed_on(name: str) -> bool:
    if name.endswith(PRIVATE_SUFFIXES):
        return False
    return name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES) or name.lower() in PROXIES
