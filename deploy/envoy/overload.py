"""What the edge does before it would run out: refuse new calls, so that those under way end well."""

from datetime import timedelta

from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import (
    DownstreamConnectionsConfig,
)
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.google.protobuf import Any

HEAP_BYTES_MAX = 512 * 1024 * 1024
CONNECTIONS_MAX = 10_000
HEAP = "envoy.resource_monitors.fixed_heap"


def manager() -> OverloadManager:
    return OverloadManager(
        refresh_interval=timedelta(milliseconds=250),
        resource_monitors=[
            ResourceMonitor(
                name=HEAP, typed_config=Any.pack(FixedHeapConfig(max_heap_size_bytes=HEAP_BYTES_MAX))
            ),
            ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=Any.pack(
                    DownstreamConnectionsConfig(max_active_downstream_connections=CONNECTIONS_MAX)
                ),
            ),
        ],
        actions=[
            _when_heap_is("envoy.overload_actions.shrink_heap", 0.90),
            _when_heap_is("envoy.overload_actions.stop_accepting_requests", 0.95),
        ],
    )


def _when_heap_is(action: str, full: float) -> OverloadAction:
    return OverloadAction(name=action, triggers=[Trigger(name=HEAP, threshold=ThresholdTrigger(value=full))])
