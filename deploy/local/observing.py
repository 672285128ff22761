"""`make up OBSERVE=1`: Prometheus, Alertmanager and the stores' exporters, as parts of the stack like any other.

They watch and are asked; nothing of the mesh waits for them. All listen on loopback only, for they ask nobody who they
are. An exporter that this machine cannot have is left out; the other two are what was asked for.
"""

from collections.abc import Mapping
from pathlib import Path

from deploy.local import scraping
from deploy.local.core.graph import Node
from deploy.local.environments import FOR_SERVERS
from deploy.local.errors import ObserversMissingError
from deploy.local.part import Command, Part
from deploy.local.plan import DATABASE, Plan
from deploy.local.probes import HttpProbe
from deploy.local.settings import ROOT, Settings, port_variable
from deploy.migrations.roles import MONITOR
from services.common.launch import Guard
from tools import prometheus as programs

KEPT_FOR, KEPT_BYTES = "7d", "512MB"
RULES = ROOT / "deploy" / "prometheus"
NEEDED = ("prometheus", "alertmanager")
EXPORTERS = ("postgres_exporter", "redis_exporter")
SERVICES = ("auth", "agent", "inference", "sandbox")
JOBS = {"postgres_exporter": "postgres", "redis_exporter": "redis"}


def observers(plan: Plan) -> tuple[Part, ...]:
    """The parts, with what they read on disk. Raises StackError if one that is needed is missing."""
    folder = check(plan.settings)
    there = [name for name in EXPORTERS if not programs.missing(folder, [name])]
    _write(plan, there)
    makers = {"postgres_exporter": _postgres_exporter, "redis_exporter": _redis_exporter}
    return (
        *(makers[name](plan, folder) for name in there),
        _alertmanager(plan, folder),
        _prometheus(plan, folder),
    )


def check(settings: Settings) -> Path:
    """Where the programs are. Raises StackError."""
    folder = programs.folder(settings.inherited)
    if missing := programs.missing(folder, NEEDED):
        raise ObserversMissingError(missing, folder, programs.VARIABLE)
    return folder


def _targets(plan: Plan, exporters: list[str]) -> dict[str, list[str]]:
    mine = {JOBS[name]: [_local(plan, name)] for name in exporters}
    return {
        **{name: [plan.address(f"{name}_metrics")] for name in SERVICES},
        "edge": [_local(plan, "admin")],
        **mine,
        **{name: [_local(plan, name)] for name in NEEDED},
    }


def _write(plan: Plan, exporters: list[str]) -> None:
    told = plan.settings.home / "observe"
    for folder in (told, _data(plan, "prometheus"), _data(plan, "alertmanager")):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    given = {name: (RULES / f"{name}.yml").read_text() for name in NEEDED}
    targets = _targets(plan, exporters)
    (told / "prometheus.json").write_bytes(
        scraping.prometheus(given["prometheus"], targets, rules=RULES / "rules")
    )
    (told / "alertmanager.json").write_bytes(scraping.alertmanager(given["alertmanager"]))


def _prometheus(plan: Plan, folder: Path) -> Part:
    arguments = (
        f"--config.file={plan.settings.home / 'observe' / 'prometheus.json'}",
        f"--storage.tsdb.path={_data(plan, 'prometheus')}",
        f"--storage.tsdb.retention.time={KEPT_FOR}",
        f"--storage.tsdb.retention.size={KEPT_BYTES}",
        f"--web.listen-address={_local(plan, 'prometheus')}",
        "--enable-feature=exemplar-storage",
    )
    node = Node(name="prometheus", stop_within_s=20.0)  # It writes what it has in memory.
    return _part(plan, node, _command(folder / "prometheus", arguments), probe=("/-/ready", "Ready"))


def _alertmanager(plan: Plan, folder: Path) -> Part:
    arguments = (
        f"--config.file={plan.settings.home / 'observe' / 'alertmanager.json'}",
        f"--storage.path={_data(plan, 'alertmanager')}",
        f"--web.listen-address={_local(plan, 'alertmanager')}",
        "--cluster.listen-address=",  # It is alone.
    )
    run = _command(folder / "alertmanager", arguments)
    return _part(plan, Node(name="alertmanager"), run, probe=("/-/ready", "OK"))


def _postgres_exporter(plan: Plan, folder: Path) -> Part:
    arguments = (f"--web.listen-address={_local(plan, 'postgres_exporter')}",)
    access = {
        "DATA_SOURCE_URI": f"{_local(plan, 'postgres')}/{DATABASE}?sslmode=disable",
        "DATA_SOURCE_USER": MONITOR,
        "DATA_SOURCE_PASS_FILE": str(plan.secrets.path("monitor_db_password")),
    }
    node = Node(name="postgres_exporter", after=("migrate",))  # Which makes its role.
    run = _command(folder / "postgres_exporter", arguments, access)
    return _part(plan, node, run, probe=("/", "ostgres"))


def _redis_exporter(plan: Plan, folder: Path) -> Part:
    arguments = (
        f"-web.listen-address={_local(plan, 'redis_exporter')}",
        f"-redis.addr=redis://{_local(plan, 'redis')}",
        f"-redis.password-file={plan.secrets.path('redis_exporter.json')}",
    )
    node = Node(name="redis_exporter", after=("redis",))
    return _part(plan, node, _command(folder / "redis_exporter", arguments), probe=("/health", "ok"))


def _command(program: Path, arguments: tuple[str, ...], env: Mapping[str, str] | None = None) -> Command:
    """Started in its own folder, where one of them looks for its templates: tools/prometheus.py."""
    return Command(
        argv=(str(program), *arguments),
        env={**FOR_SERVERS, **(env or {})},
        guard=Guard(folder=str(program.parent)),
    )


def _part(plan: Plan, node: Node, run: Command, *, probe: tuple[str, str]) -> Part:
    port = plan.ports[node.name]
    return Part(
        node=node, run=run, probe=HttpProbe(port, *probe), port=port, port_variable=port_variable(node.name)
    )


def _local(plan: Plan, name: str) -> str:
    return f"127.0.0.1:{plan.ports[name]}"


def _data(plan: Plan, name: str) -> Path:
    return plan.settings.home / "data" / name
