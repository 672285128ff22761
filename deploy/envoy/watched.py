"""Where the files lie that Envoy watches, and how one is written; files.py says what they are.

Apart from files.py, which knows Envoy's types: loading those takes a second, which is long for a command.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECRETS, ENDPOINTS = "secrets", "endpoints"
FOLDER_MODE, FILE_MODE = 0o755, 0o644  # They name files and addresses, and hold no secret.


def secret_path(folder: Path, name: str) -> Path:
    return folder / SECRETS / f"{name}.json"


def endpoints_path(folder: Path, service: str) -> Path:
    return folder / ENDPOINTS / f"{service}.json"


def write(path: Path, resource: Mapping[str, Any]) -> None:
    """`resource` in JSON's form of a protobuf `Any`, as the one resource of a DiscoveryResponse."""
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
        json.dump({"resources": [resource]}, file, indent=1)
    unfinished.replace(path)
