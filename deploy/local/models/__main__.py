"""`python -m deploy.local.models DIR`"""

import sys
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.models.install import install


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m deploy.local.models DIR", file=sys.stderr)
        return 2
    try:
        install(Path(arguments[0]))
    except StackError as error:
        print(f"ollamesh: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
