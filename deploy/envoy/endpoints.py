"""`python -m deploy.envoy.endpoints`: which replicas of a service the edge calls, changed while it runs.

    python -m deploy.envoy.endpoints ls
    python -m deploy.envoy.endpoints add inference 127.0.0.1:50060
    python -m deploy.envoy.endpoints remove inference 127.0.0.1:50060

Envoy asks a new replica whether it is ready before it sends it anything, and lets one that was removed finish what it
has. The folder is `--folder` or OLLAMESH_EDGE_FOLDER; that of the local stack is `edge` in OLLAMESH_HOME.
"""

import argparse
import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.endpoint.v3 import Endpoint as EnvoyEndpoint

from deploy.envoy import files
from deploy.envoy.config import SERVICES, Edge, Endpoint, parse_endpoint

EXIT_USAGE = 2


def assignment(service: str, replicas: Iterable[Endpoint]) -> ClusterLoadAssignment:
    addresses = [
        Address(socket_address=SocketAddress(address=replica.host, port_value=replica.port))
        for replica in replicas
    ]
    endpoints = [LbEndpoint(endpoint=EnvoyEndpoint(address=address)) for address in addresses]
    return ClusterLoadAssignment(
        cluster_name=service, endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)]
    )


def write_all(edge: Edge, folder: Path) -> None:
    """Make the files say what the settings say."""
    for service, replicas in edge.upstreams.items():
        _write(folder, service, replicas)


def read(folder: Path, service: str) -> tuple[Endpoint, ...]:
    (resource,) = json.loads(files.endpoints_path(folder, service).read_text())["resources"]
    found = [
        place["endpoint"]["address"]["socket_address"]
        for locality in resource.get("endpoints", ())
        for place in locality.get("lb_endpoints", ())
    ]
    return tuple(Endpoint(one["address"], int(one["port_value"])) for one in found)


def add(folder: Path, service: str, replica: Endpoint) -> None:
    """Once: a replica that is there already stays as it is."""
    with _changing(folder):
        _write(folder, service, dict.fromkeys([*read(folder, service), replica]))


def remove(folder: Path, service: str, replica: Endpoint) -> None:
    with _changing(folder):
        _write(folder, service, [one for one in read(folder, service) if one != replica])


def _write(folder: Path, service: str, replicas: Iterable[Endpoint]) -> None:
    files.write(files.endpoints_path(folder, service), assignment(service, replicas))


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """One at a time: who changes a file reads it first."""
    descriptor = os.open(folder / files.ENDPOINTS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _show(folder: Path) -> None:
    for service in SERVICES:
        places = (f"[{one.host}]:{one.port}" if ":" in one.host else f"{one.host}:{one.port}"
                  for one in read(folder, service))  # fmt: skip
        print(service, *places)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.envoy.endpoints", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "--folder", default=os.environ.get("OLLAMESH_EDGE_FOLDER"), help="of the edge's files"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", help="show the replicas of each service")
    for name, line in (("add", "call one more replica"), ("remove", "call a replica no more")):
        changing = commands.add_parser(name, help=line)
        changing.add_argument("service", choices=SERVICES)
        changing.add_argument("replica", metavar="HOST:PORT")
    return parser


def main(arguments: list[str]) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.folder:
        parser.error("give --folder, or set OLLAMESH_EDGE_FOLDER")
    folder = Path(given.folder)
    try:
        if given.command != "ls":
            replica = parse_endpoint(given.replica)
            if replica is None:
                parser.error("a replica is HOST:PORT")
            (add if given.command == "add" else remove)(folder, given.service, replica)
        _show(folder)
    except OSError as error:
        print(f"endpoints: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
