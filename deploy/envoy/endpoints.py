"""`python -m deploy.envoy.endpoints`: which replicas of a service the edge calls, changed while it runs.

    python -m deploy.envoy.endpoints ls
    python -m deploy.envoy.endpoints add inference 127.0.0.1:50060
    python -m deploy.envoy.endpoints add inference 127.0.0.1:50061 --set green
    python -m deploy.envoy.endpoints weigh inference 5
    python -m deploy.envoy.endpoints remove inference 127.0.0.1:50060

Envoy asks a new replica whether it is ready before it sends it anything, and lets one that was removed finish what it
has. Of the two sets (sets.py), `blue` has all calls until they are weighed: `ollamesh rollout` does that by what it
measures. The folder is `--folder` or OLLAMESH_EDGE_FOLDER; that of the local stack is `edge` in OLLAMESH_HOME.
"""

import argparse
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from deploy.envoy import sets, watched
from deploy.envoy.config import BLUE, SERVICES, SETS, Edge, Endpoint, parse_endpoint
from deploy.envoy.sets import ReplicaSet, Sets, WeightError

EXIT_USAGE = 2
TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


def write_all(edge: Edge, folder: Path) -> None:
    """Make the files say what the settings say."""
    for service in edge.upstreams:
        _write(folder, service, sets.of_edge(edge, service))


def read(folder: Path, service: str) -> Sets:
    (assignment,) = json.loads(watched.endpoints_path(folder, service).read_text())["resources"]
    return sets.read(assignment)


def add(folder: Path, service: str, replica: Endpoint, *, to: str = BLUE) -> None:
    """Once: a replica that is there already stays as it is."""
    with _changing(folder):
        now = read(folder, service)
        replicas = tuple(dict.fromkeys([*now[to].replicas, replica]))
        _write(folder, service, {**now, to: replace(now[to], replicas=replicas)})


def remove(folder: Path, service: str, replica: Endpoint) -> None:
    """From the set that it is in, whose share does not change."""
    with _changing(folder):
        now = {color: _without(found, replica) for color, found in read(folder, service).items()}
        _write(folder, service, now)


def _without(found: ReplicaSet, replica: Endpoint) -> ReplicaSet:
    return replace(found, replicas=tuple(one for one in found.replicas if one != replica))


def weigh(folder: Path, service: str, *, green_percent: int) -> None:
    """Raises WeightError."""
    with _changing(folder):
        _write(folder, service, sets.weighed(read(folder, service), green_percent))


def _write(folder: Path, service: str, now: Sets) -> None:
    watched.write(watched.endpoints_path(folder, service), {"@type": TYPE, **sets.assignment(service, now)})


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """One at a time: who changes a file reads it first."""
    descriptor = os.open(folder / watched.ENDPOINTS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _show(folder: Path) -> None:
    for service in SERVICES:
        for color, found in read(folder, service).items():
            if found.replicas:
                print(service, color, f"{found.weight}%", *map(_written, found.replicas))


def _written(one: Endpoint) -> str:
    return f"[{one.host}]:{one.port}" if ":" in one.host else f"{one.host}:{one.port}"


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
        if name == "add":
            changing.add_argument("--set", choices=SETS, default=BLUE, help="which set it belongs to")
    weighing = commands.add_parser("weigh", help="share the calls between the sets")
    weighing.add_argument("service", choices=SERVICES)
    weighing.add_argument("green_percent", metavar="GREEN_PERCENT", type=int)
    return parser


def main(arguments: list[str]) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.folder:
        parser.error("give --folder, or set OLLAMESH_EDGE_FOLDER")
    folder = Path(given.folder)
    try:
        if given.command == "weigh":
            weigh(folder, given.service, green_percent=given.green_percent)
        elif given.command != "ls":
            replica = parse_endpoint(given.replica)
            if replica is None:
                parser.error("a replica is HOST:PORT")
            if given.command == "add":
                add(folder, given.service, replica, to=given.set)
            else:
                remove(folder, given.service, replica)
        _show(folder)
    except WeightError as error:
        print(f"endpoints: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"endpoints: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
