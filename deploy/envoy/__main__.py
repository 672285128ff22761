"""`python -m deploy.envoy [--write]`: print Envoy's configuration, or say everything that is wrong with the settings.

With `--write`, the files that it refers to are written as well, into OLLAMESH_EDGE_FOLDER: files.py.
"""

import os
import sys

from deploy.envoy import endpoints, inside, tls
from deploy.envoy.config import Edge
from deploy.envoy.render import render
from services.common.config import ConfigError, Environment

WRITE = "--write"


def main(arguments: list[str]) -> int:
    env = Environment(os.environ)
    edge = Edge.read(env)
    try:
        env.check()
    except ConfigError as error:
        for mistake in error.mistakes:
            print(f"envoy: {mistake}", file=sys.stderr)
        return 2
    if WRITE in arguments:
        write_files(edge)
    sys.stdout.write(render(edge))
    return 0


def write_files(edge: Edge) -> None:
    if edge.folder is None:
        return
    endpoints.write_all(edge, edge.folder)
    if edge.tls is not None:
        tls.write_secrets(edge.tls, edge.folder)
    if edge.inside.files is not None:
        inside.write_secrets(edge.inside.files, edge.folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
