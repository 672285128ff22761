"""One stack, decided: its real ports, where its models come from, its secrets on disk."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from deploy.local import certificate, postgres, redis
from deploy.local.certificate import CertificateFiles
from deploy.local.errors import DiskFullError, FolderError, RuntimePortTakenError
from deploy.local.identities import identities_of
from deploy.local.model_source import ModelSource, find_models
from deploy.local.ports import holder, is_free, resolve
from deploy.local.secret_files import SecretFiles
from deploy.local.settings import PROCESSES, Settings, port_variable
from deploy.migrations.config import SERVICES as MIGRATED
from deploy.migrations.roles import service_role

DATABASE = "ollamesh"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - Compared with, not bound to.
# A fresh PostgreSQL takes 40 MB and its write-ahead log up to 80 more; the rest is for logs.
NEEDED_BYTES = 200 * 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    settings: Settings  # With real ports.
    source: ModelSource
    secrets: SecretFiles

    @property
    def ports(self) -> Mapping[str, int]:
        return self.settings.ports

    @property
    def host(self) -> str:
        """Where this machine reaches what listens on `bind`."""
        return ANY_ADDRESS.get(self.settings.bind, self.settings.bind)

    @property
    def edge(self) -> str:
        """In plain text, which is for this machine only, unless somebody insists."""
        return f"http://{self._plain_host}:{self.ports['edge']}"

    @property
    def edge_tls(self) -> str:
        return f"https://{self.address('edge_tls')}"

    @property
    def certificate(self) -> CertificateFiles:
        return CertificateFiles(self.settings.home / "tls")

    @property
    def edge_folder(self) -> Path:
        """Of the files that Envoy watches."""
        return self.settings.home / "edge"

    @property
    def _plain_host(self) -> str:
        if is_loopback(self.host) or self.settings.insecure_edge:
            return f"[{self.host}]" if ":" in self.host else self.host
        return "[::1]" if ":" in self.host else "127.0.0.1"

    @property
    def issuer(self) -> str:
        """Who signs this stack's tokens: a URL that leads to the keys."""
        return self.settings.inherited.get("OLLAMESH_ISSUER") or self.edge

    def address(self, name: str) -> str:
        """`host:port` of a part that listens on `bind`."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.ports[name]}"

    def target(self, name: str) -> str:
        """Where a gRPC client finds a service: at all of its processes, where that can be written."""
        ports = [self.ports[each] for each in PROCESSES if each in self.ports]
        if name != PROCESSES[0] or len(ports) == 1 or not is_ipv4(self.host):
            return self.address(name)
        return "ipv4:" + ",".join(f"{self.host}:{port}" for port in ports)

    @property
    def ollama_hosts(self) -> str:
        """For the inference service; empty if it has only instances of its own."""
        return f"http://127.0.0.1:{self.ports['runtime']}" if self.source.is_part else self.source.hosts


def is_ipv4(host: str) -> bool:
    try:
        return ip_address(host).version == 4
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_plan(settings: Settings) -> Plan:
    """Look at the machine, choose, and write the secrets. Raises StackError."""
    check_folders(settings)
    source = find_models(settings)
    wanted = settings.wanted_ports(has_runtime=source.is_ours)
    if source.is_ours and (port := wanted["runtime"]) != 0 and not is_free(port):
        raise RuntimePortTakenError(port=port, holder=holder(port), variable=port_variable("runtime"))
    ports = resolve(wanted, host=settings.bind)
    plan = Plan(settings=replace(settings, ports=ports), source=source, secrets=SecretFiles(settings.home))
    plan.secrets.create()
    certificate.ensure(plan.certificate, ("localhost", "127.0.0.1", "::1", *_named(plan.host)))
    identities_of(settings).renew()
    _write_derived(plan)
    return plan


def check_folders(settings: Settings) -> None:
    for folder, variable in ((settings.home, "OLLAMESH_HOME"), (settings.cache, "OLLAMESH_CACHE")):
        make_folder(folder, variable)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise FolderError(folder, variable, "it belongs to another user")
    free_bytes = shutil.disk_usage(settings.home).free
    if free_bytes < NEEDED_BYTES:
        raise DiskFullError(settings.home, free_bytes=free_bytes, needed_bytes=NEEDED_BYTES)


def make_folder(folder: Path, variable: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(folder, variable, error.strerror or str(error)) from error


def _named(host: str) -> tuple[str, ...]:
    """For the certificate, beside what every local stack is called."""
    return () if host in {"localhost", "127.0.0.1", "::1"} else (host,)


def _write_derived(plan: Plan) -> None:
    """What follows from ports and secrets, written anew each time, since ports may change."""
    secrets = plan.secrets
    password = secrets.read("redis_password")
    secrets.write("redis.conf", redis.configuration(port=plan.ports["redis"], password=password))
    secrets.write("redis_url", redis.url(port=plan.ports["redis"], password=password))
    _write_database_url(plan, "admin", role=postgres.ADMIN, password=secrets.read("postgres_password"))
    for service in MIGRATED:
        password = secrets.read(f"{service}_db_password")
        _write_database_url(plan, service, role=service_role(service), password=password)


def _write_database_url(plan: Plan, name: str, *, role: str, password: str) -> Path:
    url = postgres.dsn(port=plan.ports["postgres"], database=DATABASE, role=role, password=password)
    return plan.secrets.write(f"{name}_database_url", url)
