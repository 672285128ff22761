"""The environment that a container would have, with files to read: what its ConfigMap and Secrets say, laid out in a folder.

Paths in settings are moved into that folder; what lies under no mounted volume stays away, as it would for a container
whose root is read-only. Values of secrets are made up, certificates have the names that their Certificate asks for.
"""

import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from deploy.check.charts import Document, of_kind
from deploy.check.pods import Pods
from deploy.helm.secrets import values
from deploy.local.certificates import Pair, make_authority, make_leaf
from services.common.inside import Inside

IN_IMAGES = ("/app/roots",)  # The sandbox's image has them.
_SPIFFE_ID = re.compile(r"spiffe://(?P<trust_domain>[^/]+)/ns/(?P<namespace>[^/]+)/sa/(?P<service>.+)")
_OWN = Inside(service="edge", files=None)
DAY_S = 86_400


def environment(
    pods: Pods, container: Mapping[str, Any], documents: Sequence[Document], folder: Path
) -> dict[str, str]:
    """What `container` finds, of the first pod of its kind; its volumes are made below `folder`."""
    given = _given(container, documents)
    mounted = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
    for mount in container.get("volumeMounts", ()):
        place = folder / mount["mountPath"].lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        _fill(place, mount["name"], pods, documents)
    return {name: _moved(value, (*mounted, *IN_IMAGES), folder) for name, value in given.items()}


def _given(container: Mapping[str, Any], documents: Sequence[Document]) -> dict[str, str]:
    maps = {document["metadata"]["name"]: document["data"] for document in of_kind(documents, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps.get(source["configMapRef"]["name"], {})
    for variable in container.get("env", ()):
        value = str(variable.get("value", "0"))  # Of the downward API only the index of a pod is used.
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), value)
    return found


def _moved(value: str, places: Sequence[str], folder: Path) -> str:
    inside = any(value == place or value.startswith(f"{place}/") for place in places)
    return f"{folder}{value}" if inside else value


def _fill(place: Path, volume: str, pods: Pods, documents: Sequence[Document]) -> None:
    secret = next(
        (
            each["secret"]
            for each in pods.spec.get("volumes", ())
            if each["name"] == volume and "secret" in each
        ),
        None,
    )
    if secret is None:
        return
    if "items" in secret:
        made = _values()[secret["secretName"].removeprefix("ollamesh-")]
        for item in secret["items"]:
            (place / item["path"]).write_text(made[item["key"]])
    else:
        pair, authority = _certificate(secret["secretName"], documents)
        (place / "tls.crt").write_bytes(pair.certificate)
        (place / "tls.key").write_bytes(pair.key)
        (place / "ca.crt").write_bytes(authority.certificate)


@cache
def _values() -> Mapping[str, Mapping[str, str]]:
    stores = {"postgres": "postgres:5432", "redis": "redis:6379"}
    return values(**stores, postgres_password="-", redis_password="-", tls=True)  # noqa: S106 -- of nothing.


@cache
def _authority() -> Pair:
    return make_authority("check", trust_domain="check", now_s=time.time(), life_s=DAY_S)


def _certificate(secret: str, documents: Sequence[Document]) -> tuple[Pair, Pair]:
    asked = [
        each["spec"] for each in of_kind(documents, "Certificate") if each["spec"]["secretName"] == secret
    ]
    names = [_SPIFFE_ID.fullmatch(uri) for spec in asked for uri in spec.get("uris", ())]
    inside = Inside(files=None, **names[0].groupdict()) if names and names[0] else _OWN
    return make_leaf(_authority(), inside, now_s=time.time(), life_s=DAY_S), _authority()
