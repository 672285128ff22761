"""Every service that is configured wrongly says all of it at once, names no value, and does not start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRONG = "hunter2"
COMMON = {"OLLAMESH_AUDIT_SPOOL": "/dev/null/hunter2", "OLLAMESH_AUDIT_SPOOL_BYTES_MAX": WRONG}
STORES = {"DATABASE_URL": f"mysql://{WRONG}"}
SEALED = {"SECRET_KEY": WRONG, "ENCRYPTION_KEY": WRONG}
SERVICES = {
    "auth": {**STORES, **SEALED, "OLLAMESH_ADMIN_PASSWORD": WRONG, "OLLAMESH_SERVICE_CLIENT_SECRET": WRONG},
    "agent": {
        **STORES,
        "ENCRYPTION_KEY": WRONG,
        "OLLAMESH_AGENT_WORKERS_MAX": WRONG,
        "OLLAMESH_AGENT_FETCH_HOSTS": f"https://{WRONG}",
        "OLLAMESH_AGENT_FETCH_PRIVATE_NETWORKS": WRONG,
        "OLLAMESH_SANDBOX_TARGET": ",",
    },
    "inference": {**STORES, **SEALED, "REDIS_URL": f"mysql://{WRONG}", "OLLAMA_HOSTS": f"ftp://{WRONG}"},
    "sandbox": {"OLLAMESH_SANDBOX_WALL_S": WRONG},
}


@pytest.mark.parametrize("service", SERVICES)
def test_it_names_every_mistake_at_once_and_no_value(service: str, tmp_path: Path) -> None:
    wrong = {**SERVICES[service], **COMMON}
    environment = {"PATH": os.environ["PATH"], "OLLAMESH_INSECURE_INSIDE": "true", **wrong}
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 2, done.stderr
    named = {line.split()[1] for line in done.stderr.splitlines()}
    assert set(wrong) <= named
    assert WRONG not in done.stderr + done.stdout
