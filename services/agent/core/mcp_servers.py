"""The operator's file of MCP servers: which there are, how they are reached, and which of their tools are pinned.

    {"servers": {
       "weather": {
         "url": "https://weather.example/mcp", "bearer_token_file": "/run/secrets/weather",
         "tools": {"forecast": {"sha256": "…", "effect": "NONE", "definition": {…}}}},
       "tickets": {
         "command": ["/opt/tickets/server", "--stdio"], "env": {"TICKETS_HOME": "/srv/tickets"},
         "tools": {}}}}

`python -m services.agent.pins FILE` prints the `tools` of each server, to be reviewed and put in. A tool is offered as
`server.tool`. Of a tool whose `effect` is not said the worst is believed: it is EXTERNAL, and what it returns is not
trusted.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from services.agent.core.tool_pins import Definition, pin, pinned_part

SERVERS_MAX, TOOLS_MAX = 32, 128  # Of a file, and of each server.
DESCRIPTION_CHARS_MAX, SCHEMA_BYTES_MAX = 4096, 65_536  # As the inference service takes them.
TIMEOUT_S, TIMEOUT_S_MAX = 30.0, 300.0
SERVER_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
EFFECTS = ("NONE", "IDEMPOTENT", "STATE_CHANGING", "EXTERNAL")
OF_SERVER = {"url", "bearer_token_file", "command", "env", "tools"}
OF_TOOL = {"sha256", "definition", "effect", "returns_untrusted", "timeout_s"}


class McpFileInvalidError(Exception):
    """What is wrong, and where, in words for the operator. Holds no value of the file but names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedTool:
    name: str  # At its server.
    offered_as: str
    sha256: str
    definition: Definition
    effect: str  # A name of ports.Effect.
    returns_untrusted: bool
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """Reached by its URL, or else started by its command."""

    name: str
    url: str = ""
    bearer_token_file: str = ""  # The operator's own for this server; a user's never goes there.
    command: tuple[str, ...] = ()
    env: Mapping[str, str]  # All that the program is given, beside a PATH and a HOME.
    tools: Mapping[str, PinnedTool]  # By their names at the server.


def parsed(text: str) -> tuple[McpServer, ...]:
    """Raises McpFileInvalidError."""
    try:
        content = json.loads(text)
    except ValueError:
        raise McpFileInvalidError("it is not JSON") from None
    if not isinstance(content, dict) or set(content) != {"servers"}:
        raise McpFileInvalidError('it is not {"servers": {…}}')
    servers = _mapping(content["servers"], "servers")
    if len(servers) > SERVERS_MAX:
        raise McpFileInvalidError(f"there are more than {SERVERS_MAX} servers")
    return tuple(_server(name, _mapping(value, name)) for name, value in servers.items())


def _server(name: str, said: Mapping[str, object]) -> McpServer:
    _known(said, OF_SERVER, name)
    if not SERVER_NAME.fullmatch(name):
        raise McpFileInvalidError("a server's name is not of up to 32 letters, digits, _ and -")
    if ("url" in said) == ("command" in said):
        raise McpFileInvalidError(f"{name}: say either url or command")
    tools = _mapping(said.get("tools", {}), f"{name}.tools")
    if len(tools) > TOOLS_MAX:
        raise McpFileInvalidError(f"{name}: there are more than {TOOLS_MAX} tools")
    return McpServer(
        name=name,
        url=_url(said["url"], name) if "url" in said else "",
        bearer_token_file=_text(said.get("bearer_token_file", ""), f"{name}.bearer_token_file"),
        command=_command(said["command"], name) if "command" in said else (),
        env={key: _text(value, f"{name}.env") for key, value in _mapping(said.get("env", {}), name).items()},
        tools={key: _tool(name, key, _mapping(value, f"{name}.{key}")) for key, value in tools.items()},
    )


def _url(value: object, name: str) -> str:
    text = _text(value, f"{name}.url")
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    else:
        is_whole = is_whole and parts.username is None and not parts.fragment
    if not is_whole:
        raise McpFileInvalidError(f"{name}.url is not a whole http or https URL without user and fragment")
    return text


def _command(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise McpFileInvalidError(f"{name}.command is not a list of a program and its arguments")
    command = tuple(_text(each, f"{name}.command") for each in value)
    if not command[0].startswith("/"):
        raise McpFileInvalidError(f"{name}.command does not name its program by an absolute path")
    return command


def _tool(server: str, name: str, said: Mapping[str, object]) -> PinnedTool:
    where, offered_as = f"{server}.{name}", f"{server}.{name}"
    _known(said, OF_TOOL, where)
    if not TOOL_NAME.fullmatch(offered_as):
        raise McpFileInvalidError(f"{server}: {offered_as!r} is not of up to 64 letters, digits, _, . and -")
    definition, sha256 = _mapping(said.get("definition"), f"{where}.definition"), said.get("sha256")
    if definition.get("name") != name or not isinstance(definition.get("inputSchema"), dict):
        raise McpFileInvalidError(f"{where}.definition is not the tool's, with its name and inputSchema")
    if len(str(definition.get("description", ""))) > DESCRIPTION_CHARS_MAX:
        raise McpFileInvalidError(
            f"{where}: its description has more than {DESCRIPTION_CHARS_MAX} characters"
        )
    if len(json.dumps(definition["inputSchema"])) > SCHEMA_BYTES_MAX:
        raise McpFileInvalidError(f"{where}: its inputSchema has more than {SCHEMA_BYTES_MAX} bytes")
    if definition != pinned_part(definition) or sha256 != pin(definition):
        raise McpFileInvalidError(f"{where}: sha256 is not that of the definition beside it; pin it anew")
    effect, timeout_s = said.get("effect", "EXTERNAL"), said.get("timeout_s", TIMEOUT_S)
    returns_untrusted = said.get("returns_untrusted", True)
    if effect not in EFFECTS:
        raise McpFileInvalidError(f"{where}.effect is none of {', '.join(EFFECTS)}")
    if not isinstance(returns_untrusted, bool):
        raise McpFileInvalidError(f"{where}.returns_untrusted is neither true nor false")
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= TIMEOUT_S_MAX:
        raise McpFileInvalidError(f"{where}.timeout_s is not between 0 and {TIMEOUT_S_MAX:g}")
    return PinnedTool(
        name=name,
        offered_as=offered_as,
        sha256=str(sha256),
        definition=definition,
        effect=str(effect),
        returns_untrusted=returns_untrusted,
        timeout_s=float(timeout_s),
    )


def _known(said: Mapping[str, object], names: set[str], where: str) -> None:
    if unknown := sorted(said.keys() - names):
        raise McpFileInvalidError(f"{where}: {unknown[0]!r} is none of {', '.join(sorted(names))}")


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise McpFileInvalidError(f"{where} is not an object")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise McpFileInvalidError(f"{where} is not text")
    return value


def tools_of(servers: tuple[McpServer, ...]) -> Iterator[PinnedTool]:
    for server in servers:
        yield from server.tools.values()
