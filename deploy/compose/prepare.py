"""`make compose-secrets`, or `python -m deploy.compose.prepare`: what compose.yaml needs that nobody may commit.

    private/secrets/NAME       each secret in a file, made once; what exists stays, for data were made with it
    private/edge/tls.crt|key   the certificate that callers see: put yours in their place, or trust private/edge/ca.pem
    private/alertmanager/      tokens for whom alerts reach; empty, to be filled
    .env                       which files, which versions and images, where callers come; written anew each time

Docker mounts these files into containers whose users are others than yours, so each may be read by all, and none can be
reached by anybody but you: their folder is closed.
"""

import argparse
import json
import sys
from pathlib import Path

from deploy.docker.images import ROOT, version
from deploy.local import certificate, postgres
from deploy.local.certificate import CertificateFiles
from deploy.local.secret_files import SecretFiles
from deploy.migrations.config import SERVICES as MIGRATED
from deploy.migrations.roles import service_role

HERE = Path(__file__).parent
DIGESTS = ROOT / "deploy" / "docker" / "digests.env"
FOLDER_MODE, OPEN_FOLDER_MODE, FILE_MODE = 0o700, 0o755, 0o444
OVERLAYS = ("gpu", "observe")
DATABASE = "ollamesh"
REDIS_CONFIGURATION = """\
bind 0.0.0.0
protected-mode yes
requirepass {password}
dir /data
save ""
appendonly no
maxmemory 384mb
maxmemory-policy volatile-lru
"""


def prepare(place: Path, *, host: str, publish: str, overlays: list[str]) -> None:
    private = place / "private"
    private.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    private.chmod(FOLDER_MODE)
    _secrets(SecretFiles(private))
    _edge_certificate(private / "edge", host)
    (private / "alertmanager").mkdir(mode=OPEN_FOLDER_MODE, exist_ok=True)
    files = ["compose.yaml", *(f"compose.{name}.yaml" for name in OVERLAYS if name in overlays)]
    port = publish.rpartition(":")[2]
    settings = {
        "COMPOSE_FILE": ":".join(files),
        "OLLAMESH_VERSION": version(),
        "OLLAMESH_ISSUER": f"https://{host}" if port == "443" else f"https://{host}:{port}",
        "OLLAMESH_PUBLISH": publish,
        **({"OLLAMESH_OTLP_TARGET": "collector:4317"} if "observe" in overlays else {}),
        **images(DIGESTS),
    }
    lines = [
        "# Written by `make compose-secrets`; put settings of your own into `local.env` and name both with --env-file."
    ]
    (place / ".env").write_text(
        "\n".join([*lines, *(f"{name}={value}" for name, value in settings.items()), ""])
    )


def images(digests: Path) -> dict[str, str]:
    """By the names of their variables."""
    lines = (line for line in digests.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def _secrets(files: SecretFiles) -> None:
    files.create()
    for name in ("grafana_password", "backup_passphrase"):
        if not files.path(name).exists():
            files.write(name, SecretFiles.random())
    password = files.read("redis_password")
    files.write("redis_conf", REDIS_CONFIGURATION.format(password=password))
    files.write("redis_url", f"redis://:{password}@redis:6379/0")
    files.write("redis_exporter", json.dumps({"redis://redis:6379": password}))
    files.write("admin_database_url", _dsn(postgres.ADMIN, files.read("postgres_password")))
    for service in MIGRATED:
        files.write(
            f"{service}_database_url", _dsn(service_role(service), files.read(f"{service}_db_password"))
        )
    for path in files.folder.iterdir():
        path.chmod(FILE_MODE)


def _dsn(role: str, password: str) -> str:
    return f"postgresql://{role}:{password}@postgres:5432/{DATABASE}"


def _edge_certificate(folder: Path, host: str) -> None:
    """For a look around. Whoever has a certificate of a known authority puts it there instead, and it stays."""
    if (folder / "tls.crt").exists():
        return
    made = CertificateFiles(folder)
    certificate.ensure(made, list(dict.fromkeys((host, "localhost", "127.0.0.1"))))
    made.certificate.rename(folder / "tls.crt")
    made.key.rename(folder / "tls.key")
    folder.chmod(OPEN_FOLDER_MODE)
    for path in folder.iterdir():
        path.chmod(FILE_MODE)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="compose-secrets")
    parser.add_argument("--into", type=Path, default=HERE)
    parser.add_argument("--host", default="localhost", help="what callers call the edge")
    parser.add_argument(
        "--publish", default="127.0.0.1:8443", help="ADDRESS:PORT of this machine where they do"
    )
    parser.add_argument("--with", dest="overlays", nargs="*", choices=OVERLAYS, default=[])
    asked = parser.parse_args(arguments)
    prepare(asked.into, host=asked.host, publish=asked.publish, overlays=asked.overlays)
    print(f"compose-secrets: {asked.into}/.env and {asked.into}/private are there")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
