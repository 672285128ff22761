"""A mesh of built images: the local stack's stores and models, and everything else from images."""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ollamesh.client import Client, Password

from deploy.docker.container import Container, signalled
from deploy.docker.engine import Engine
from deploy.docker.images import IMAGES
from deploy.local import identities
from deploy.local.parts import CALLS, SECRETS, all_parts
from deploy.local.plan import Plan, make_plan
from deploy.local.ports import free_ports
from deploy.local.settings import Settings
from deploy.local.supervisor import Supervisor
from deploy.migrations.config import SERVICES as MIGRATED
from services.common.inside import AUTHORITIES, CERTIFICATE, KEY
from services.common.restarts import RestartPolicy

KEPT = ("postgres", "redis", "runtime")  # Of the local stack.
SECRETS_AT, TLS_AT = "/run/secrets", "/run/tls"
READY_WITHIN_S, STOPS_WITHIN_S = 180.0, 60.0
MODEL = "smollm2:135m"


class NotProved(Exception):
    """What an image did instead, as a sentence."""


@dataclass(frozen=True, slots=True)
class Started:
    container: Container
    process: subprocess.Popen[bytes]
    log: Path


@asynccontextmanager
async def stores(settings: Settings) -> AsyncIterator[Plan]:
    """PostgreSQL, Redis and the models' runtime, as the local stack has them, with certificates for everybody."""
    plan = make_plan(settings)
    parts = [part for part in all_parts(plan) if part.node.name in KEPT]
    ready = asyncio.Event()

    def publish(_notices: object, is_ready: bool) -> None:  # noqa: FBT001 - Publish has it.
        if is_ready:
            ready.set()

    supervisor = Supervisor(
        parts, settings.home, publish=publish, note=lambda _part, _line: None, policy=RestartPolicy()
    )
    running = asyncio.create_task(supervisor.run())
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            raise NotProved(f"the stores did not start: {running.result()}")
        yield plan
    finally:
        waiting.cancel()
        supervisor.stop()
        await running


class Mesh:
    """Containers, and what each is given: the secrets that the local stack gives that part, and no other."""

    def __init__(self, engine: Engine, plan: Plan, folder: Path) -> None:
        self._engine, self._plan, self._folder = engine, plan, folder
        ports = free_ports(2 * len(CALLS) + 4)
        self.ports = dict(zip(CALLS, ports, strict=False))
        self.metrics = dict(zip(CALLS, ports[len(CALLS) :], strict=False))
        self.edge, self._edge_tls, self._admin, self.edge_metrics = ports[2 * len(CALLS) :]
        self._mounts = ExitStack()
        self._roots: dict[str, Path] = {}

    @contextmanager
    def mounted(self) -> Iterator[None]:
        with self._mounts:
            for image in IMAGES:
                self._roots[image.service] = self._mounts.enter_context(self._engine.mounted(image))
            yield

    def container(
        self, service: str, *, environment: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Container:
        (image,) = (image for image in IMAGES if image.service == service)
        settings = self._engine.settings(image)
        uid = int(settings.user.partition(":")[0])
        given = self._folder / service
        for name in secrets.values():
            _copied(self._plan.secrets.path(name), given / "secrets" / name, uid)
        state = given / "state"
        state.mkdir(parents=True, exist_ok=True)
        shutil.chown(state, uid, uid)
        binds = {given / "secrets": SECRETS_AT} if secrets else {}
        if service != "migrations":
            files = identities.files_of(self._plan.settings.home, service)
            for path in (files.certificate, files.key, files.authorities):
                _copied(path, given / "tls" / path.name, uid)
            binds[given / "tls"] = TLS_AT
            environment = {**environment, **_identity()}
        return Container(
            root=self._roots[service],
            settings=settings,
            environment={
                **environment,
                **{f"{name}_FILE": f"{SECRETS_AT}/{file}" for name, file in secrets.items()},
            },
            binds=binds,
            state=state,
        )

    def migrations(self) -> Container:
        passwords = {f"OLLAMESH_{name.upper()}_DB_PASSWORD": f"{name}_db_password" for name in MIGRATED}
        secrets = {"OLLAMESH_ADMIN_DATABASE_URL": "admin_database_url", **passwords}
        return self.container("migrations", environment={}, secrets=secrets)

    def service(self, name: str) -> Container:
        environment = {
            "OLLAMESH_BIND": "127.0.0.1",
            "OLLAMESH_ISSUER": self.address,
            f"OLLAMESH_{name.upper()}_PORT": str(self.ports[name]),
            f"OLLAMESH_{name.upper()}_METRICS_PORT": str(self.metrics[name]),
            **{
                f"OLLAMESH_{called.upper()}_TARGET": f"127.0.0.1:{self.ports[called]}"
                for called in CALLS[name]
            },
        }
        if name == "inference":
            environment["OLLAMA_HOSTS"] = self._plan.ollama_hosts
        return self.container(name, environment=environment, secrets=SECRETS[name])

    def edge_container(self) -> Container:
        environment = {
            "OLLAMESH_BIND": "127.0.0.1",
            "OLLAMESH_ISSUER": self.address,
            "OLLAMESH_EDGE_PORT": str(self.edge),
            "OLLAMESH_EDGE_TLS_PORT": str(self._edge_tls),
            "OLLAMESH_ADMIN_PORT": str(self._admin),
            "OLLAMESH_EDGE_METRICS_PORT": str(self.edge_metrics),
            **{f"OLLAMESH_{name.upper()}_REPLICAS": f"127.0.0.1:{port}" for name, port in self.ports.items()},
        }
        return self.container("edge", environment=environment, secrets={})

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.edge}"

    def start(self, name: str, container: Container) -> Started:
        log = self._folder / f"{name}.log"
        return Started(container, container.start(log), log)

    def client(self) -> Client:
        return Client(self.address, Password("admin", self._plan.secrets.read("admin_password")))


def until_healthy(name: str, started: Started) -> float:
    """Ask as the image itself says, until it says yes. Return after how many seconds."""
    began_s = time.monotonic()
    while True:
        if (status := started.process.poll()) is not None:
            raise NotProved(f"{name} ended with status {status}: {_tail(started.log)}")
        asked = started.container.run(*started.container.settings.healthcheck)
        if asked.returncode == 0:
            return time.monotonic() - began_s
        if time.monotonic() - began_s > READY_WITHIN_S:
            raise NotProved(f"{name} does not become healthy: {asked.stderr.strip()}; {_tail(started.log)}")
        time.sleep(0.2)


def stop(name: str, started: Started) -> None:
    """As a runtime does it; an image that does not end by itself, and well, is not proved."""
    signalled(started.process, getattr(signal, started.container.settings.stop_signal or "SIGTERM"))
    try:
        status = started.process.wait(timeout=STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        started.process.kill()
        raise NotProved(f"{name} does not end within {STOPS_WITHIN_S:g} s of its stop signal") from None
    if status != 0:
        raise NotProved(f"{name} ends with status {status} when it is stopped: {_tail(started.log)}")


def _identity() -> Mapping[str, str]:
    return {CERTIFICATE: f"{TLS_AT}/tls.crt", KEY: f"{TLS_AT}/tls.key", AUTHORITIES: f"{TLS_AT}/ca.crt"}


def _copied(source: Path, target: Path, uid: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o400)
    shutil.chown(target, uid, uid)
    shutil.chown(target.parent, uid, uid)


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
