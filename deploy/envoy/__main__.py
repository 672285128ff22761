"""`python -m deploy.envoy`: print Envoy's configuration, or say everything that is wrong with the settings."""

import os
import sys

from deploy.envoy.config import Edge
from deploy.envoy.render import render
from services.common.config import ConfigError, Environment


def main() -> int:
    env = Environment(os.environ)
    edge = Edge.read(env)
    try:
        env.check()
    except ConfigError as error:
        for mistake in error.mistakes:
            print(f"envoy: {mistake}", file=sys.stderr)
        return 2
    sys.stdout.write(render(edge))
    return 0


if __name__ == "__main__":
    sys.exit(main())
