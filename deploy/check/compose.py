"""Docker Compose: schema, what refers to what, who reaches whom, and how little each container may do.

No Docker has read these files here: they are looked at as data.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.check.tools import complaints, ran, tool
from deploy.compose import model
from deploy.compose.model import names
from deploy.compose.prepare import DIGESTS, images
from deploy.docker.images import IMAGES, PREFIX

OURS = {image.name: image for image in IMAGES}
ONCE = ("migrations", "pull")  # They end.
PUBLISHING = "edge"
LOOPBACK_ONLY = {"grafana"}  # Asks for a password, and has a port on this machine's loopback.
HIDDEN = re.compile(r"ollama-\d+|postgres|redis")  # Nothing outside reaches them.
# Whom each may share a network with, among what is hidden.
USERS = {
    "postgres": {"auth", "agent", "inference-0", "inference-1", "migrations", "postgres-exporter", "backup"},
    "redis": {"auth", "inference-0", "inference-1", "redis-exporter"},
    "ollama-0": {"inference-0", "inference-1", "ollama-1"},
    "ollama-1": {"inference-0", "inference-1", "ollama-0"},
}
WITH_THE_STORES = {"postgres", "redis", "auth", "agent", "inference-0", "inference-1", "migrations"} | {
    "postgres-exporter",
    "redis-exporter",
    "backup",
}
DEFAULTED = re.compile(r"\$\{\w+:-([^}]*)\}")  # A variable, for which what it is without being set stands.
LIMITS = ("cpus", "memory", "pids")
UNCONFINED = {"sandbox"}  # Whose jails need what Docker's own profiles forbid; it has a profile of its own.
Service = Mapping[str, Any]


def check() -> list[str]:
    return [*_schemas(), *problems(model.read())]


def problems(found: Mapping[str, Any], folder: Path = model.HERE) -> list[str]:
    services: Mapping[str, Service] = found["services"]
    told = [*_references(found, folder), *_reachable(found)]
    for name, service in services.items():
        told += [
            f"compose: {name} {what}."
            for what in (*_order(name, service, services), *_hardened(name, service))
        ]
        told += [f"compose: {name} {what}." for what in (*_pinned(service), *_identity(name, service))]
    return told


def _schemas() -> list[str]:
    checker = tool("check-jsonschema")
    files = (model.BASE, *model.OVERLAYS)
    return [
        problem
        for name in files
        for problem in complaints(
            ran(checker, "--builtin-schema", "vendor.compose-spec", model.HERE / name),
            f"deploy/compose/{name}",
        )
    ]


def _references(found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Networks, secrets and volumes: each that is used is declared, and each that is declared is used."""
    services = found["services"].values()
    volumes = {
        source for service in services for source, _ in mounts(service) if not source.startswith((".", "/"))
    }
    used = {
        "networks": {name for service in services for name in names(service.get("networks"))},
        "secrets": {name for service in services for name in names(service.get("secrets"))},
        "volumes": volumes,
    }
    for kind, those in used.items():
        declared = set(found.get(kind, ()))
        yield from (f"compose: {kind} {name} is used and not declared." for name in sorted(those - declared))
        yield from (f"compose: {kind} {name} is declared and not used." for name in sorted(declared - those))
    for name, secret in found["secrets"].items():
        if secret.get("file") != f"./private/secrets/{name}":
            yield f"compose: secret {name} is not the file of its name in private/secrets."
    for service in services:
        for source, _ in mounts(service):
            if (
                source.startswith(("./", "../"))
                and "private" not in source
                and not (folder / source).exists()
            ):
                yield f"compose: {source} is mounted and is not there."
    profile = json.loads((folder / "sandbox-seccomp.json").read_text())
    if not profile["syscalls"]:
        yield "compose: the sandbox's seccomp profile forbids nothing."


def mounts(service: Service) -> list[tuple[str, str]]:
    """Sources and targets; an anonymous volume has no source and is left out."""
    pairs = (DEFAULTED.sub(r"\1", str(one)).split(":") for one in service.get("volumes", ()))
    return [(pair[0], pair[1]) for pair in pairs if len(pair) > 1]


def _order(name: str, service: Service, services: Mapping[str, Service]) -> Iterator[str]:
    for needed, how in (service.get("depends_on") or {}).items():
        condition = how["condition"]
        if needed not in services:
            yield f"depends on {needed}, which is not there"
        elif condition == "service_completed_successfully" and needed not in ONCE:
            yield f"waits for the end of {needed}, which goes on"
        elif condition == "service_healthy" and not _has_healthcheck(services[needed]):
            yield f"waits for the health of {needed}, which has no check"
        elif condition != "service_completed_successfully" and needed in ONCE:
            yield f"waits for {needed} to serve, which ends"
        elif name in _needs(needed, services):
            yield f"depends on {needed}, which depends on it"


def _needs(name: str, services: Mapping[str, Service], seen: frozenset[str] = frozenset()) -> set[str]:
    direct = [one for one in services.get(name, {}).get("depends_on") or {} if one not in seen]
    return {*direct, *(far for one in direct for far in _needs(one, services, seen | {name}))}


def _has_healthcheck(service: Service) -> bool:
    """Ours have theirs in the image."""
    image = OURS.get(str(service["image"]).partition(":")[0])
    built_in = image is not None and image.service != "migrations"
    return built_in or "test" in service.get("healthcheck", {})


def _reachable(found: Mapping[str, Any]) -> Iterator[str]:
    services, networks = found["services"], found["networks"]
    for name, service in services.items():
        at = names(service.get("networks"))
        for port in service.get("ports", ()):
            if name in LOOPBACK_ONLY and str(port).startswith("127.0.0.1:"):
                continue
            if name != PUBLISHING:
                yield f"compose: {name} publishes {port}, and only the edge may."
        if service.get("network_mode") == "host":
            yield f"compose: {name} is on the machine's own network."
        if HIDDEN.fullmatch(name):
            yield from (
                f"compose: {name} is at {one}, which leads outside."
                for one in at
                if not (networks.get(one) or {}).get("internal")
            )
            allowed = USERS[name] | (WITH_THE_STORES if name in {"postgres", "redis"} else set())
            for other, that in services.items():
                if other != name and set(at) & set(names(that.get("networks"))) and other not in allowed:
                    yield f"compose: {other} reaches {name}."


def _hardened(name: str, service: Service) -> Iterator[str]:
    options = [str(option) for option in service.get("security_opt", ())]
    if service.get("read_only") is not True:
        yield "can write to its root"
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add") or service.get("privileged"):
        yield "has capabilities"
    if "no-new-privileges:true" not in options:
        yield "may gain privileges"
    if name not in UNCONFINED and any("unconfined" in option or "seccomp" in option for option in options):
        yield "is less confined than Docker's own profiles would have it"
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    yield from (f"has no limit of {limit}" for limit in LIMITS if limit not in limits)
    if "max-size" not in service.get("logging", {}).get("options", {}):
        yield "may fill the disk with its log"
    if OURS.get(str(service["image"]).partition(":")[0]) is None and str(service.get("user", "0")).startswith(
        "0"
    ):
        yield "runs as root"
    yield from (
        f"gets {source} of the machine" for source, _ in mounts(service) if source.startswith("/var/run")
    )


def _pinned(service: Service) -> Iterator[str]:
    """By a variable of digests.env, or by the version."""
    image = str(service["image"])
    variable = re.fullmatch(r"\$\{(\w+):\?[^}]*\}", image)
    if image.startswith(f"{PREFIX}/"):
        name, _, tag = image.partition(":")
        if name not in OURS or not tag.startswith("${OLLAMESH_VERSION:?"):
            yield f"runs {image}, which is none of ours by its version"
    elif variable is None or variable[1] not in images(DIGESTS):
        yield f"runs {image}, which is not in deploy/docker/digests.env"


def _identity(name: str, service: Service) -> Iterator[str]:
    """Everybody has their own certificate, and nobody another's."""
    image = OURS.get(str(service["image"]).partition(":")[0])
    held = [source for source, _ in mounts(service) if source.startswith("tls_")]
    if name == "certificates":
        return
    wanted = [f"tls_{image.service}"] if image is not None and image.service != "migrations" else []
    if held != wanted:
        yield f"holds the certificates {held}, where it should hold {wanted}"
