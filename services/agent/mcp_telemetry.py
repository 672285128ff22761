"""What is counted of MCP servers. Labels are the names of the operator's file and ours, never what a server says."""

from enum import Enum

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.agent.core.tool_pins import Refusal

log = structlog.get_logger(__name__)

LOGGED_CHARS_MAX = 64


class Outcome(Enum):
    OK = "ok"
    FAILED = "failed"  # The tool or its server says so.
    REFUSED = "refused"  # It is not what was reviewed.
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"


class McpMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "ollamesh_agent_mcp_calls_total",
            "Calls of MCP tools by how they ended",
            ("server", "outcome"),
            registry=registry,
        )
        self._refused = Counter(
            "ollamesh_agent_mcp_tools_refused_total",
            "Tools that a server lists otherwise than they were reviewed",
            ("server", "reason"),
            registry=registry,
        )
        self._up = Gauge(
            "ollamesh_agent_mcp_server_up", "Whether the server is connected", ("server",), registry=registry
        )

    def called(self, server: str, outcome: Outcome) -> None:
        self._calls.labels(server, outcome.value).inc()

    def refused(self, server: str, tool: str, reason: Refusal) -> None:
        """A tool is refused from now on."""
        self._refused.labels(server, reason.value).inc()
        log.warning(
            "mcp_tool_refused",
            server=server,
            tool=tool[:LOGGED_CHARS_MAX],
            reason=reason.value,
            mend="review it with `python -m services.agent.pins`, and pin it",
        )

    def connected(self, server: str, *, is_up: bool, error: str = "") -> None:
        self._up.labels(server).set(is_up)
        if is_up:
            log.info("mcp_server_connected", server=server)
        elif error:
            log.warning("mcp_server_unreachable", server=server, error=error)
