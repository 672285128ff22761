"""What the edge does before it would run out: refuse new calls, so that those under way end well."""

from collections.abc import Sequence
from datetime import timedelta

from envoy_data_plane.envoy.config.bootstrap.v3 import LayeredRuntime, RuntimeLayer
from envoy_data_plane.envoy.config.overload.v3 import (
    BufferFactoryConfig,
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ScaledTrigger,
    ScaleTimersOverloadActionConfig,
    ScaleTimersOverloadActionConfigScaleTimer,
    ScaleTimersOverloadActionConfigTimerType,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import (
    DownstreamConnectionsConfig,
)
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.google.protobuf import Any, Struct

from deploy.envoy.config import Limits

HEAP = "envoy.resource_monitors.fixed_heap"
MIB = 1024 * 1024
LISTENER_SHARE = 0.9  # Of all connections that one listener may have: the other is never shut out.
# Who takes back most of what it asks for, each soon after, is cut off (CVE-2023-44487).
PREMATURE_RESETS_MAX, PREMATURE_S = 500, 1
TRACKED_BYTES_POWER = 20  # Streams that hold a mebibyte or more may be cut off.


def manager(limits: Limits) -> OverloadManager:
    return OverloadManager(
        refresh_interval=timedelta(milliseconds=250),
        buffer_factory_config=BufferFactoryConfig(minimum_account_to_track_power_of_two=TRACKED_BYTES_POWER),
        resource_monitors=[
            ResourceMonitor(
                name=HEAP, typed_config=Any.pack(FixedHeapConfig(max_heap_size_bytes=limits.heap_mib * MIB))
            ),
            ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=Any.pack(
                    DownstreamConnectionsConfig(max_active_downstream_connections=limits.connections_max)
                ),
            ),
        ],
        actions=[
            _idle_connections_close_sooner(),
            _when_heap_is("envoy.overload_actions.shrink_heap", 0.90),
            _when_heap_is("envoy.overload_actions.disable_http_keepalive", 0.92),
            _when_heap_is("envoy.overload_actions.stop_accepting_requests", 0.95),
            OverloadAction(
                name="envoy.overload_actions.reset_high_memory_stream",
                triggers=[_between(0.97, 0.99)],
            ),
            _when_heap_is("envoy.overload_actions.stop_accepting_connections", 0.98),
        ],
    )


def runtime(limits: Limits, listeners: Sequence[str]) -> LayeredRuntime:
    """Limits that Envoy knows by runtime keys only. `listeners` are those that strangers reach."""
    each = int(limits.connections_max * LISTENER_SHARE)
    values = {
        "overload.premature_reset_total_stream_count": PREMATURE_RESETS_MAX,
        "overload.premature_reset_min_stream_lifetime_seconds": PREMATURE_S,
        **{f"envoy.resource_limits.listener.{name}.connection_limit": each for name in listeners},
    }
    return LayeredRuntime(layers=[RuntimeLayer(name="static", static_layer=Struct.from_dict(values))])


def _idle_connections_close_sooner() -> OverloadAction:
    scaled = ScaleTimersOverloadActionConfigScaleTimer(
        timer=ScaleTimersOverloadActionConfigTimerType.HTTP_DOWNSTREAM_CONNECTION_IDLE,
        min_timeout=timedelta(seconds=2),
    )
    return OverloadAction(
        name="envoy.overload_actions.reduce_timeouts",
        triggers=[_between(0.80, 0.95)],
        typed_config=Any.pack(ScaleTimersOverloadActionConfig(timer_scale_factors=[scaled])),
    )


def _between(begins: float, whole: float) -> Trigger:
    return Trigger(name=HEAP, scaled=ScaledTrigger(scaling_threshold=begins, saturation_threshold=whole))


def _when_heap_is(action: str, full: float) -> OverloadAction:
    return OverloadAction(name=action, triggers=[Trigger(name=HEAP, threshold=ThresholdTrigger(value=full))])
