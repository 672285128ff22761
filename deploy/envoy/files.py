"""The files that Envoy watches, so that it need not be restarted when they change.

    secrets/certificate.json, secrets/client_ca.json    where the TLS listener's certificates lie
    endpoints/SERVICE.json                              the replicas of a service

Each is a DiscoveryResponse, as a control plane would send it, and changes by rename: a reader sees one or the other.
Of a certificate, Envoy watches the folder that it lies in, too.
"""

import json
import os
from pathlib import Path

import betterproto2
from betterproto2 import Casing
from envoy_data_plane.envoy.config.core.v3 import ConfigSource, PathConfigSource, WatchedDirectory
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.google.protobuf import Any

SECRETS, ENDPOINTS = "secrets", "endpoints"
FOLDER_MODE, FILE_MODE = 0o755, 0o644  # They name files and addresses, and hold no secret.


def source(path: Path) -> ConfigSource:
    """Where Envoy reads a resource, now and whenever a file is moved into that folder."""
    watched = WatchedDirectory(path=str(path.parent))
    return ConfigSource(path_config_source=PathConfigSource(path=str(path), watched_directory=watched))


def secret_path(folder: Path, name: str) -> Path:
    return folder / SECRETS / f"{name}.json"


def endpoints_path(folder: Path, service: str) -> Path:
    return folder / ENDPOINTS / f"{service}.json"


def write(path: Path, resource: betterproto2.Message) -> None:
    response = DiscoveryResponse(resources=[Any.pack(resource)])
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
        json.dump(response.to_dict(casing=Casing.SNAKE), file, indent=1)
    unfinished.replace(path)
