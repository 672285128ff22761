"""`python -m deploy.migrations`: bring the database to the newest version, or say in one sentence why not."""

import asyncio
import sys

from deploy.migrations.config import Config, MigrationError
from deploy.migrations.runner import migrate


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    try:
        asyncio.run(migrate(Config.from_env(), say=_say))
    except MigrationError as error:
        _say(f"ollamesh: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
