"""The plan of the real stack: who gets which secret, who waits for whom, where the models come from."""

import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.local import model_source
from deploy.local.core.graph import all_needs
from deploy.local.errors import PortTakenError, RuntimePortTakenError
from deploy.local.model_source import ModelSource, SourceKind, find_models
from deploy.local.part import Part
from deploy.local.parts import all_parts
from deploy.local.plan import Plan, make_plan
from deploy.local.ports import free_ports, resolve
from deploy.local.settings import DEFAULT_PORTS, Settings
from services.common.config import Environment
from services.inference.config import Config


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        cache=tmp_path / "cache",
        ports=dict.fromkeys(DEFAULT_PORTS, 0),
        look_for_ollama=False,
        inherited={"PATH": "/nowhere"},
    )


@pytest.fixture
def plan(settings: Settings) -> Plan:
    return make_plan(settings)


def by_name(plan: Plan) -> dict[str, Part]:
    return {part.node.name: part for part in all_parts(plan)}


def test_the_parts_and_what_they_need(plan: Plan) -> None:
    parts = by_name(plan)
    assert list(parts) == [
        "postgres",
        "redis",
        "runtime",
        "migrate",
        "traces",
        "auth",
        "inference",
        "sandbox",
        "agent",
        "edge",
    ]
    needs = all_needs(part.node for part in parts.values())
    assert needs["edge"] == set(parts) - {"edge"}, "the edge opens last and closes first"
    assert needs["agent"] >= {"postgres", "auth", "inference", "sandbox"}
    assert needs["inference"] >= {"postgres", "redis", "migrate", "auth", "runtime"}


def test_a_service_gets_its_own_secrets_as_files_and_no_other(plan: Plan) -> None:
    given = {
        name: {key.removesuffix("_FILE") for key in part.run.env if key.endswith("_FILE")}
        for name, part in by_name(plan).items()
    }
    keys = {"REDIS_URL", "SECRET_KEY", "ENCRYPTION_KEY"}
    assert given["sandbox"] == set()
    assert given["inference"] == {"DATABASE_URL", *keys}
    assert given["agent"] == {"DATABASE_URL", "ENCRYPTION_KEY"}
    assert given["auth"] == {
        "DATABASE_URL",
        "OLLAMESH_ADMIN_PASSWORD",
        "OLLAMESH_SERVICE_CLIENT_SECRET",
        "OLLAMESH_BACKUP_METRICS",  # No secret, but a file.
        *keys,
    }
    secrets = {path.read_text() for path in plan.secrets.folder.iterdir()}
    for part in all_parts(plan):
        exposed = {*part.run.argv, *part.run.env.values()}
        assert not exposed & secrets, "any user of the machine can read arguments"


def test_each_service_connects_as_its_own_role(plan: Plan) -> None:
    assert "//ollamesh_auth:" in plan.secrets.read("auth_database_url")
    assert "//ollamesh_agent:" in plan.secrets.read("agent_database_url")
    assert "//ollamesh_inference:" in plan.secrets.read("inference_database_url")


def test_the_sandbox_serves_whatever_is_there(settings: Settings) -> None:
    """And only who builds it is told where packages come from, for that may hold a password."""
    inherited = {**settings.inherited, "UV_DEFAULT_INDEX": "https://user:password@index"}
    sandbox = by_name(make_plan(replace(settings, inherited=inherited)))["sandbox"]
    assert sandbox.prepare is not None
    root = str(settings.cache / "sandbox")
    assert sandbox.prepare.argv[-2:] == ("--into", root)
    assert "UV_DEFAULT_INDEX" in sandbox.prepare.env
    assert "UV_DEFAULT_INDEX" not in sandbox.run.env
    assert sandbox.run.env["OLLAMESH_SANDBOX_ROOT"] == root
    assert sandbox.run.env["OLLAMESH_SANDBOX_PROFILES"] == "all"


def test_which_profiles_are_served_is_a_persons_choice(settings: Settings) -> None:
    inherited = {**settings.inherited, "OLLAMESH_SANDBOX_PROFILES": "python,mine"}
    sandbox = by_name(make_plan(replace(settings, inherited=inherited)))["sandbox"]
    assert sandbox.run.env["OLLAMESH_SANDBOX_PROFILES"] == "python,mine"


def test_a_given_ollama_needs_no_runtime(settings: Settings) -> None:
    plan = make_plan(replace(settings, ollama_hosts="http://gpu:11434"))
    parts = by_name(plan)
    assert "runtime" not in parts
    assert parts["inference"].run.env["OLLAMA_HOSTS"] == "http://gpu:11434"
    assert plan.source.kind is SourceKind.GIVEN


def test_an_ollama_on_path_is_supervised(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "OLLAMA_PORT", 1)  # Nobody answers there.
    (program := tmp_path / "ollama").touch(mode=0o755)
    plan = make_plan(replace(settings, look_for_ollama=True, inherited={"PATH": str(tmp_path)}))
    runtime = by_name(plan)["runtime"]
    assert runtime.run.argv == (str(program), "serve")
    assert runtime.run.env["OLLAMA_HOST"] == f"127.0.0.1:{plan.ports['runtime']}"
    assert runtime.prepare is None


@pytest.mark.parametrize(
    ("given", "parallel"),
    [
        ({}, str(Config.read(Environment({"OLLAMA_HOSTS": "gpu"})).slots_per_instance)),
        ({"OLLAMESH_INSTANCE_SLOTS": "8"}, "8"),
        ({"OLLAMESH_INSTANCE_SLOTS": "8", "OLLAMA_NUM_PARALLEL": "2"}, "2"),
    ],
)
def test_a_supervised_ollama_takes_as_many_requests_as_it_is_sent(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], parallel: str
) -> None:
    monkeypatch.setattr(model_source, "OLLAMA_PORT", 1)  # Nobody answers there.
    (tmp_path / "ollama").touch(mode=0o755)
    inherited = {"PATH": str(tmp_path), **given}
    plan = make_plan(replace(settings, look_for_ollama=True, inherited=inherited))
    env = by_name(plan)["runtime"].run.env
    assert env["OLLAMA_NUM_PARALLEL"] == parallel
    assert env["OLLAMA_MAX_LOADED_MODELS"] == "64", "which models are in memory is ours to decide"


def test_gpus_are_the_inference_services_to_serve(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "OLLAMA_PORT", 1)  # Nobody answers there.
    plan = make_plan(replace(settings, look_for_ollama=True, ollama_gpus="0,1"))
    parts = by_name(plan)
    assert plan.source.kind is SourceKind.OWNED
    assert "runtime" not in parts
    assert "runtime" not in all_needs(part.node for part in parts.values())["inference"]
    env = parts["inference"].run.env
    assert (env["OLLAMA_HOSTS"], env["OLLAMA_GPUS"]) == ("", "0,1")
    assert env["OLLAMESH_RUNTIME_PORT"] == str(plan.ports["runtime"]) != "0"


def test_gpus_come_on_top_of_given_hosts(settings: Settings) -> None:
    plan = make_plan(replace(settings, ollama_hosts="http://gpu:11434", ollama_gpus="1"))
    env = by_name(plan)["inference"].run.env
    assert (env["OLLAMA_HOSTS"], env["OLLAMA_GPUS"]) == ("http://gpu:11434", "1")


def test_the_embedded_models_need_no_gpu(settings: Settings) -> None:
    inherited = {**settings.inherited, "OLLAMA_GPUS": "all"}
    plan = make_plan(replace(settings, ollama_gpus="all", inherited=inherited))
    assert plan.source.kind is SourceKind.EMBEDDED
    assert by_name(plan)["inference"].run.env["OLLAMA_GPUS"] == "", "what is inherited must not get through"


@pytest.mark.parametrize(
    ("says", "kind"), [("Ollama is running", SourceKind.OLLAMA), ("nginx", SourceKind.EMBEDDED)]
)
def test_only_what_answers_like_ollama_is_taken_for_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, says: str, kind: SourceKind
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(says.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - The base class's name.
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(model_source, "OLLAMA_PORT", server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = find_models(replace(settings, look_for_ollama=True))
        server.shutdown()
    assert source.kind is kind
    assert source == (
        ModelSource(kind, f"http://127.0.0.1:{server.server_port}")
        if kind is SourceKind.OLLAMA
        else ModelSource(kind, "")
    )


@pytest.mark.parametrize(
    ("bind", "address", "plain"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]", "[::1]"),
        ("10.0.0.7", "10.0.0.7", "127.0.0.1"),
        ("fd00::7", "[fd00::7]", "[::1]"),
    ],
)
def test_the_stack_reaches_itself_where_it_listens(plan: Plan, bind: str, address: str, plain: str) -> None:
    moved = replace(plan, settings=replace(plan.settings, bind=bind))
    assert moved.edge == f"http://{plain}:{plan.ports['edge']}"
    assert moved.edge_tls == f"https://{address}:{plan.ports['edge_tls']}"
    agent = by_name(moved)["agent"]
    assert agent.run.env["OLLAMESH_BIND"] == bind
    assert agent.run.env["OLLAMESH_AUTH_TARGET"] == f"{address}:{plan.ports['auth']}"


def test_a_stranger_on_the_runtimes_port_is_said_to_be_no_ollama(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(RuntimePortTakenError, match="which is no Ollama that this stack could rely on"):
            make_plan(replace(settings, ports={**settings.ports, "runtime": port}))


def test_zero_picks_distinct_free_ports() -> None:
    ports = resolve(dict.fromkeys(DEFAULT_PORTS, 0), host="127.0.0.1")
    assert len(set(ports.values())) == len(DEFAULT_PORTS)
    assert all(port > 0 for port in ports.values())


def test_a_port_of_another_address_is_not_in_the_way() -> None:
    (port,) = free_ports(1)  # Not any that the system picks: those are for what connects from here, too.
    with socket.create_server(("127.0.0.2", port)):
        assert resolve({"edge": port}, host="127.0.0.1") == {"edge": port}
        with pytest.raises(PortTakenError):
            resolve({"edge": port}, host="0.0.0.0")


def test_processes_of_the_inference_service_are_told_to_whoever_calls_it(settings: Settings) -> None:
    ports = {**settings.ports, "inference_2": 0}
    plan = make_plan(replace(settings, ports=ports))
    listed = f"{plan.ports['inference']},{plan.ports['inference_2']}"
    parts = by_name(plan)
    prepared = parts["edge"].prepare
    assert prepared is not None
    for env in (parts["inference"].run.env, prepared.env):
        assert (env["OLLAMESH_INFERENCE_PROCESSES"], env["OLLAMESH_INFERENCE_PORTS"]) == ("2", listed)
    inference = Config.read(Environment(parts["inference"].run.env))
    assert inference.ports == (plan.ports["inference"], plan.ports["inference_2"])
    first, second = (f"127.0.0.1:{port}" for port in inference.ports)
    assert parts["agent"].run.env["OLLAMESH_INFERENCE_TARGET"] == f"ipv4:{first},{second}"
    named = replace(plan, settings=replace(plan.settings, bind="::1"))
    assert by_name(named)["agent"].run.env["OLLAMESH_INFERENCE_TARGET"] == f"[::1]:{inference.ports[0]}"
    assert "OLLAMESH_AGENT_PROCESSES" not in parts["agent"].run.env
