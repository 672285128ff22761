"""The files that Envoy watches, so that it need not be restarted when they change.

    secrets/certificate.json, secrets/client_ca.json    where the TLS listener's certificates lie
    endpoints/SERVICE.json                              the replicas of a service

Each is a DiscoveryResponse, as a control plane would send it, and changes by rename: a reader sees one or the other.
Of a certificate, Envoy watches the folder that it lies in, too.
"""

from pathlib import Path

import betterproto2
from betterproto2 import Casing
from envoy_data_plane.envoy.config.core.v3 import ConfigSource, PathConfigSource, WatchedDirectory
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import watched


def source(path: Path) -> ConfigSource:
    """Where Envoy reads a resource, now and whenever a file is moved into that folder."""
    changes = WatchedDirectory(path=str(path.parent))
    return ConfigSource(path_config_source=PathConfigSource(path=str(path), watched_directory=changes))


def write(path: Path, resource: betterproto2.Message) -> None:
    watched.write(path, Any.pack(resource).to_dict(casing=Casing.SNAKE))
