"""Metrics that boards show and a stack on one machine does not have, each with the reason.

The test that scrapes a live stack lets these pass, and nothing else.
"""

from collections.abc import Mapping

ABSENT: Mapping[str, str] = {
    "ollamesh_gpus": "there is no GPU",
    "ollamesh_gpu_utilization_ratio": "there is no GPU",
    "ollamesh_gpu_memory_used_bytes": "there is no GPU",
    "ollamesh_gpu_memory_bytes": "there is no GPU",
    "ollamesh_gpu_temperature_celsius": "there is no GPU",
    "ollamesh_gpu_power_watts": "there is no GPU",
    "DCGM_FI_DEV_XID_ERRORS": "NVIDIA's DCGM exporter runs beside GPUs only",
    "ollamesh_agent_mcp_calls_total": "no MCP server is configured",
    "ollamesh_agent_mcp_server_up": "no MCP server is configured",
    "ollamesh_agent_mcp_tools_refused_total": "no MCP server is configured",
    "ollamesh_backup_duration_seconds": "no backup has been made",
    "ollamesh_backup_last_success_timestamp_seconds": "no backup has been made",
    "ollamesh_backup_size_bytes": "no backup has been made",
}
