"""`python -m tests.unit.envoy_golden`: write the edge's configuration anew where the tests compare with it.

With `--check`, show how it differs from what is stored. A program, because the library that renders it warns when it
is imported, and warnings fail tests.

What is stored is meant to be read in a diff: one file a listener, one for the clusters, one for the rest. Descriptors
and the script are long, and are proved elsewhere: they are named instead.
"""

import difflib
import json
import sys
from pathlib import Path
from typing import Any

from deploy.envoy.config import Edge
from deploy.envoy.listeners import LUA
from deploy.envoy.render import render
from services.common.config import Environment

FOLDER = Path(__file__).with_name("golden") / "envoy"
SETTINGS = {
    "OLLAMESH_BIND": "10.0.0.5",
    "OLLAMESH_EDGE_CERT_FILE": "/tls/edge.pem",
    "OLLAMESH_EDGE_KEY_FILE": "/tls/edge.key",
    "OLLAMESH_EDGE_CLIENT_CA": "/tls/clients.pem",
    "OLLAMESH_EDGE_FOLDER": "/edge",
    "OLLAMESH_EDGE_DISCOVERY": "files",
    "OLLAMESH_TLS_CERT": "/inside/tls.crt",
    "OLLAMESH_TLS_KEY": "/inside/tls.key",
    "OLLAMESH_TLS_CA": "/inside/ca.crt",
    "OLLAMESH_OTLP_TARGET": "collector:4317",
}


def rendered() -> dict[str, str]:
    """The files, by name, as they ought to be."""
    env = Environment(SETTINGS)
    edge = Edge.read(env)
    env.check()
    whole: dict[str, Any] = json.loads(render(edge))
    resources = whole.pop("static_resources")
    public, tls, keys = resources["listeners"]
    parts = {"listener_public": public, "listener_tls": _but_for(public, tls), "listener_keys": keys}
    parts |= {"clusters": resources["clusters"], "rest": whole}
    return {f"{name}.json": _text(part) for name, part in parts.items()}


def stored() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(FOLDER.glob("*.json"))}


def _text(part: Any) -> str:
    return json.dumps(_shortened(part), indent=1) + "\n"


def _but_for(public: Any, tls: Any) -> Any:
    """What is said to callers with TLS, without repeating what is said to all."""
    known, found = (one["filter_chains"][0]["filters"][0]["typed_config"] for one in (public, tls))
    for name in found.keys() & known.keys():
        if found[name] == known[name] and isinstance(found[name], dict | list):
            found[name] = "(as in listener_public)"
    host, known_host = (one["route_config"]["virtual_hosts"][0] for one in (found, known))
    assert host["routes"] == known_host["routes"]
    host["routes"] = "(as in listener_public)"
    return tls


def _shortened(found: Any) -> Any:
    match found:
        case {"proto_descriptor_bin": _}:
            return {**found, "proto_descriptor_bin": "(the descriptors of these services)"}
        case dict():
            return {name: _shortened(value) for name, value in found.items()}
        case list():
            return [_shortened(value) for value in found]
        case _:
            return f"({LUA.name})" if found == LUA.read_text() else found


def differences() -> list[str]:
    fresh, known = rendered(), stored()
    return [
        line
        for name in sorted({*fresh, *known})
        for line in difflib.unified_diff(
            known.get(name, "").splitlines(),
            fresh.get(name, "").splitlines(),
            fromfile=f"{name}, stored",
            tofile=f"{name}, rendered",
            lineterm="",
        )
    ]


def write() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    fresh = rendered()
    for name in stored().keys() - fresh.keys():
        (FOLDER / name).unlink()
    for name, text in fresh.items():
        (FOLDER / name).write_text(text)


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        write()
        return 0
    lines = differences()
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
