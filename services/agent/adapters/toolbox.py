"""The tools of the service itself, made of what they need. What each may do is said in tool_specs.py."""

from collections.abc import Mapping

from services.agent.adapters.http_fetch import HttpFetch
from services.agent.adapters.run_python import RunPython
from services.agent.adapters.sandbox_session import SandboxSessions
from services.agent.adapters.session_files import ReadFile, WriteFile
from services.agent.core.egress import Egress
from services.agent.ports import Tool


def own_tools(sessions: SandboxSessions, egress: Egress) -> Mapping[str, Tool]:
    """By name."""
    tools: list[Tool] = [RunPython(sessions), ReadFile(sessions), WriteFile(sessions)]
    if egress.hosts:  # Where nothing may be fetched, nobody is offered to fetch.
        tools.append(HttpFetch(egress))
    return {tool.spec.name: tool for tool in tools}
