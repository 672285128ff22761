"""What a service is: its version, whether it is ready, and how much room its folders have."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, Info, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.common.certificates import expiry_watched
from services.common.grpc.server import ServerConfig
from services.common.loop_lag import loop_watched
from services.common.metrics.endpoint import metrics_served


class Ready(Protocol):
    @property
    def is_ready(self) -> bool:
        """Whether balancers are told to send calls."""
        ...


@contextmanager
def service_observed(
    registry: CollectorRegistry,
    config: ServerConfig,
    server: Ready,
    *,
    spool: Path | None,
    folders: Mapping[str, Path] | None = None,
) -> Iterator[None]:
    """Measure a service of one process, and publish it, for as long as the block lasts.

    `spool` is where its audit events wait; `folders` are others of which the room is told, by name.
    """
    service_watched(registry, config, spool=spool, folders=folders)
    ready_watched(registry, server)
    with (
        loop_watched(registry),
        metrics_served(registry, bind=config.bind, port=config.metrics_port),
    ):
        yield


def service_watched(
    registry: CollectorRegistry,
    config: ServerConfig,
    *,
    spool: Path | None,
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Publish what is true of the service as a whole, once, however many processes it has."""
    Info("ollamesh_build", "Which version of which service this is", registry=registry).info(
        {"service": config.name, "version": config.version}
    )
    expiry_watched(registry, config.inside.files)
    spools = {} if spool is None else {"audit_spool": spool}
    registry.register(Disks({**spools, **(folders or {})}))


def ready_watched(registry: CollectorRegistry, server: Ready) -> None:
    """Publish what the health service says. Of several processes, the endpoint shows the least."""
    Gauge("ollamesh_ready", "1 while the service says that it is ready", registry=registry).set_function(
        lambda: server.is_ready
    )


class Disks(Collector):
    """The file systems that folders are on. One that cannot be looked at is left out."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def collect(self) -> Iterable[Metric]:
        free = GaugeMetricFamily(
            "ollamesh_disk_free_bytes", "Room left where a folder of the service is", labels=("name",)
        )
        size = GaugeMetricFamily("ollamesh_disk_size_bytes", "Size of that file system", labels=("name",))
        for name, path in self._folders.items():
            try:
                found = os.statvfs(path)
            except OSError:
                continue
            free.add_metric((name,), found.f_bavail * found.f_frsize)
            size.add_metric((name,), found.f_blocks * found.f_frsize)
        return [free, size]
