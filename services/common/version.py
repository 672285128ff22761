"""Which version this is: what the image says, or else what the tree says that it was built from."""

import re
import tomllib
from pathlib import Path

from services.common.config import Environment

NAME = "OLLAMESH_VERSION"
UNKNOWN = "unknown"
_FORM = re.compile(r"[0-9A-Za-z.+_-]{1,64}")
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def read_version(env: Environment) -> str:
    """What is said in logs and metrics; it becomes a label, so it has a form."""
    given = env.optional(NAME) or _of_tree()
    if _FORM.fullmatch(given) is None:
        env.reject(NAME, "is not a version of up to 64 letters, digits and any of .+_-")
        return UNKNOWN
    return given


def _of_tree() -> str:
    try:
        version: str = tomllib.loads(_PROJECT.read_text())["project"]["version"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return UNKNOWN
    return version
