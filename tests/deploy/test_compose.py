"""The compose files: faults that are planted are seen, and each of our parts accepts the environment that it is given."""

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.backup.config import Config as Backup
from deploy.check import compose
from deploy.compose import model, prepare
from deploy.compose.model import Json
from deploy.docker.images import IMAGES
from deploy.envoy.config import Edge
from deploy.local.core.authorities import Pace
from deploy.local.identities import Identities
from deploy.migrations.config import Config as Migrations
from services.agent.config import Config as Agent
from services.auth.config import Config as Auth
from services.common.config import Environment
from services.inference.config import Config as Inference
from services.sandbox.config import Config as Sandbox

READERS: Mapping[str, Callable[[Environment], object]] = {
    "auth": Auth.read,
    "agent": Agent.read,
    "inference-0": Inference.read,
    "inference-1": Inference.read,
    "sandbox": Sandbox.read,
    "edge": Edge.read,
}
PLACES = {"/run/secrets": "private/secrets", "/run/edge-tls": "private/edge"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make compose-secrets` leaves it, and the certificates that the mesh would make."""
    folder = tmp_path_factory.mktemp("compose")
    prepare.prepare(folder, host="mesh.example", publish="0.0.0.0:443", overlays=["observe"])
    Identities(
        folder,
        Pace(leaf_s=3600, authority_s=36_000, announced_s=1),
        trust_domain="ollamesh",
        namespace="default",
    ).renew()
    return folder


def variables(place: Path) -> dict[str, str]:
    lines = (place / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def given(service: Json, name: str, place: Path) -> dict[str, str]:
    """What a part finds in its environment, with its files where this test has them."""
    image = next(image for image in IMAGES if service["image"].startswith(f"{image.name}:"))
    places = {
        **PLACES,
        "/run/tls": f"tls/{image.service}",
        "/app/roots": "roots",
        "/var/lib/ollamesh": f"state/{name}",
    }
    found = {
        "OLLAMESH_BIND": "0.0.0.0",
        "OLLAMESH_EDGE_FOLDER": "/run/ollamesh/edge",
        "PATH": os.environ["PATH"],
    }
    found |= {"OLLAMESH_SANDBOX_ROOT": "/app/roots", "OLLAMESH_AUDIT_SPOOL": "/var/lib/ollamesh/audit"}
    for variable, value in {**found, **service["environment"]}.items():
        there = next(
            (
                value.replace(seen, str(place / real))
                for seen, real in places.items()
                if value.startswith(seen)
            ),
            value,
        )
        found[variable] = there
    return found


@pytest.mark.parametrize("name", READERS)
def test_each_part_accepts_its_environment(name: str, place: Path) -> None:
    service = model.read(variables=variables(place))["services"][name]
    (place / "roots" / "python").mkdir(parents=True, exist_ok=True)
    env = Environment(given(service, name, place))
    READERS[name](env)
    env.check()


@pytest.mark.parametrize("name", READERS)
def test_no_variable_is_one_that_nobody_reads(name: str, place: Path) -> None:
    """A misspelt setting would be ignored in silence."""
    asked: set[str] = set()

    class Noting(Environment):
        def optional(self, name: str) -> str | None:
            asked.add(name)
            return super().optional(name)

    service = model.read(variables=variables(place))["services"][name]
    env = Noting(given(service, name, place))
    READERS[name](env)
    told = {
        variable.removesuffix("_FILE") if variable.removesuffix("_FILE") in asked else variable
        for variable in service["environment"]
    }
    assert told <= asked | {"OLLAMESH_TRACE_PERCENT", "OLLAMESH_OTLP_TARGET"}, told - asked


def test_the_migrations_accept_theirs(place: Path) -> None:
    service = model.read(variables=variables(place))["services"]["migrations"]
    config = Migrations.from_env(given(service, "migrations", place))
    assert config.monitor_password
    assert "@postgres:5432/" in config.admin_dsn


def test_the_backups_accept_theirs(place: Path) -> None:
    """And what seals the log seals the keys, without which nobody reads the data."""
    service = model.read(variables=variables(place))["services"]["backup"]
    config = Backup.from_env(given(service, "backup", place), live=True)
    assert (config.metrics_host, config.metrics_port) == ("0.0.0.0", 9466)
    assert config.spool is not None
    assert {"secret_key", "encryption_key"} <= set(service["secrets"])
    assert {"stores", "watch"} == set(service["networks"])


def test_only_who_prepared_can_start_it() -> None:
    with pytest.raises(model.UnsetError):
        model.read(variables={})


def test_what_was_made_stays_and_is_closed_to_others(place: Path) -> None:
    secrets = place / "private" / "secrets"
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    prepare.prepare(place, host="other.example", publish="127.0.0.1:8443", overlays=["observe"])
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert (place / "private").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o444}
    prepare.prepare(place, host="mesh.example", publish="0.0.0.0:443", overlays=["observe"])
    assert variables(place)["OLLAMESH_ISSUER"] == "https://mesh.example"


def changed(found: Json, *path: str, to: Any) -> Json:
    copied = copy.deepcopy(found)
    part = copied
    for name in path[:-1]:
        part = part[name]
    if to is None:
        del part[path[-1]]
    else:
        part[path[-1]] = to
    return copied


@pytest.fixture(scope="module")
def found() -> Json:
    return model.read()


FAULTS = [
    (("services", "postgres", "ports"), ["5432:5432"], "postgres publishes 5432:5432"),
    (("services", "ollama-0", "networks"), ["models", "door"], "ollama-0 is at door, which leads outside"),
    (("networks", "stores"), None, "networks stores is used and not declared"),
    (("networks", "stores"), {"internal": False}, "postgres is at stores, which leads outside"),
    (("services", "sandbox", "networks"), ["mesh", "stores"], "sandbox reaches postgres"),
    (("services", "edge", "networks"), ["door", "mesh", "models"], "edge reaches ollama-0"),
    (("services", "auth", "depends_on", "redos"), {"condition": "service_healthy"}, "auth depends on redos"),
    (
        ("services", "auth", "depends_on", "migrations"),
        {"condition": "service_healthy"},
        "migrations, which has no check",
    ),
    (
        ("services", "auth", "depends_on", "redis"),
        {"condition": "service_completed_successfully"},
        "waits for the end of redis",
    ),
    (("services", "postgres", "depends_on"), {"auth": {"condition": "service_healthy"}}, "depends on it"),
    (
        ("services", "auth", "secrets"),
        ["auth_database_url", "grafana"],
        "secrets grafana is used and not declared",
    ),
    (("services", "auth", "read_only"), False, "auth can write to its root"),
    (("services", "auth", "cap_drop"), None, "auth has capabilities"),
    (("services", "auth", "privileged"), True, "auth has capabilities"),
    (("services", "auth", "security_opt"), ["seccomp=unconfined"], "auth may gain privileges"),
    (("services", "auth", "logging"), None, "auth may fill the disk"),
    (("services", "auth", "deploy", "resources", "limits"), {"cpus": "1"}, "auth has no limit of memory"),
    (("services", "redis", "user"), None, "redis runs as root"),
    (("services", "redis", "image"), "valkey/valkey:latest", "redis runs valkey/valkey:latest"),
    (("services", "auth", "image"), "ollamesh/auth:latest", "none of ours by its version"),
    (("services", "agent", "volumes"), ["tls_auth:/run/tls:ro"], "agent holds the certificates ['tls_auth']"),
]


@pytest.mark.parametrize(("path", "value", "said"), FAULTS, ids=[said for _, _, said in FAULTS])
def test_a_fault_is_seen(path: tuple[str, ...], value: Any, said: str, found: Json) -> None:
    told = compose.problems(changed(found, *path, to=value))
    assert any(said in one for one in told), told


def test_the_files_are_fine(found: Json) -> None:
    assert compose.problems(found) == []


@pytest.mark.parametrize("overlays", [(), ("compose.gpu.yaml",), ("compose.observe.yaml",)])
def test_each_choice_of_files_is_whole(overlays: tuple[str, ...], place: Path) -> None:
    found = model.read(overlays=overlays, variables=variables(place))
    assert [
        one for one in compose.problems(found) if "digests.env" not in one and "none of ours" not in one
    ] == []


def test_a_gpu_for_each_ollama() -> None:
    services = model.read(
        variables=dict.fromkeys(
            ("OLLAMESH_ISSUER", "OLLAMESH_VERSION", *prepare.images(prepare.DIGESTS)), "x"
        )
    )["services"]
    devices = [services[f"ollama-{n}"]["deploy"]["resources"]["reservations"]["devices"] for n in (0, 1)]
    assert [one["device_ids"] for (one,) in devices] == [["0"], ["1"]]
    assert all(services[f"ollama-{n}"]["deploy"]["resources"]["limits"]["memory"] for n in (0, 1))
