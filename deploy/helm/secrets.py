"""`python -m deploy.helm.secrets`: the Secrets that an installation needs, with values of its own, as YAML for `kubectl apply`.

    python -m deploy.helm.secrets --postgres HOST:PORT --redis HOST:PORT --namespace ollamesh | kubectl apply -f -

Once, before the first installation: values are drawn anew each time, and with other keys nobody reads what was sealed. Where an
operator or a vault makes secrets, it needs the same keys (KEYS). Of PostgreSQL and Redis the passwords are asked for by
OLLAMESH_POSTGRES_PASSWORD and OLLAMESH_REDIS_PASSWORD, so that no process list shows them.
"""

import argparse
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from cryptography.fernet import Fernet

# By part; the chart mounts exactly these, and each service reads them by `X_FILE`.
KEYS: Mapping[str, Sequence[str]] = {
    "auth": (
        *("database_url", "redis_url", "secret_key", "encryption_key"),
        *("admin_password", "service_client_secret"),
    ),
    "agent": ("database_url", "encryption_key"),
    "inference": ("database_url", "redis_url", "secret_key", "encryption_key"),
    "migrations": ("admin_database_url", "auth_db_password", "agent_db_password", "inference_db_password"),
    "backup": ("admin_database_url", "backup_passphrase", "secret_key", "encryption_key"),
}
# Where the chart mounts who signs the stores' certificates.
AUTHORITY = "/run/ollamesh/stores/ca.crt"
WITH_DATABASE = ("auth", "agent", "inference")


def values(
    *, postgres: str, redis: str, postgres_password: str, redis_password: str, tls: bool
) -> Mapping[str, Mapping[str, str]]:
    """By part and key."""
    roles = {name: secrets.token_urlsafe(32) for name in WITH_DATABASE}
    shared = {"secret_key": secrets.token_urlsafe(48), "encryption_key": Fernet.generate_key().decode()}
    options = f"?sslmode=verify-full&sslrootcert={AUTHORITY}" if tls else ""
    admin = f"postgresql://postgres:{quote(postgres_password, safe='')}@{postgres}/ollamesh{options}"
    scheme, authority = ("rediss", f"?ssl_ca_certs={AUTHORITY}") if tls else ("redis", "")
    known = {
        **shared,
        "redis_url": f"{scheme}://:{quote(redis_password, safe='')}@{redis}/0{authority}",
        "admin_password": secrets.token_urlsafe(24),
        "service_client_secret": secrets.token_urlsafe(48),
        "admin_database_url": admin,
        "backup_passphrase": secrets.token_urlsafe(48),
        **{f"{name}_db_password": password for name, password in roles.items()},
    }
    urls = {
        name: f"postgresql://ollamesh_{name}:{roles[name]}@{postgres}/ollamesh{options}" for name in roles
    }
    return {
        part: {key: urls[part] if key == "database_url" else known[key] for key in keys}
        for part, keys in KEYS.items()
    }


def manifests(found: Mapping[str, Mapping[str, str]], namespace: str) -> list[dict[str, object]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"ollamesh-{part}", "namespace": namespace},
            "stringData": dict(data),
        }
        for part, data in found.items()
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.helm.secrets")
    parser.add_argument("--postgres", required=True, metavar="HOST:PORT")
    parser.add_argument("--redis", required=True, metavar="HOST:PORT")
    parser.add_argument("--namespace", default="ollamesh")
    parser.add_argument("--plain-stores", action="store_true", help="the stores speak no TLS")
    asked = parser.parse_args(arguments)
    passwords = [os.environ.get(f"OLLAMESH_{name}_PASSWORD", "") for name in ("POSTGRES", "REDIS")]
    if not all(passwords):
        print("secrets: OLLAMESH_POSTGRES_PASSWORD or OLLAMESH_REDIS_PASSWORD is not set", file=sys.stderr)
        return 2
    found = values(
        postgres=asked.postgres,
        redis=asked.redis,
        postgres_password=passwords[0],
        redis_password=passwords[1],
        tls=not asked.plain_stores,
    )
    # JSON is YAML, and quotes what has to be quoted.
    print("\n---\n".join(json.dumps(each, indent=1) for each in manifests(found, asked.namespace)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
