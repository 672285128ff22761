"""`python -m services.agent.pins FILE [SERVER...]`: what the servers of a file offer, for their operator to review.

Prints the `tools` of each server as they stand in the file: those that are pinned with what the file says of them,
and with what the server says now. `--check` prints only what differs, and the exit status is 1 if anything that is
pinned does: tools that nobody pinned are printed, and are offered to nobody.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.agent.adapters.mcp_connection import listed_once
from services.agent.core.mcp_servers import McpFileInvalidError, McpServer, parsed
from services.agent.core.tool_pins import Definition, Refusal, judged, pin, pinned_part


def entry(server: McpServer, definition: Definition) -> Mapping[str, object]:
    """A tool as it is to stand in the file."""
    name = str(definition["name"])
    kept = server.tools.get(name)
    return {
        "sha256": pin(definition),
        "effect": kept.effect if kept else "EXTERNAL",
        "returns_untrusted": kept.returns_untrusted if kept else True,
        "definition": pinned_part(definition),
    }


def differences(server: McpServer, listed: Sequence[Definition]) -> Mapping[str, str]:
    pins = {tool.name: tool.sha256 for tool in server.tools.values()}
    return {name: reason.value for name, reason in judged(pins, listed).refused.items()}


async def looked_at(servers: Sequence[McpServer], *, is_check: bool) -> tuple[Mapping[str, object], bool]:
    """What is to be printed, and whether everything is as it was reviewed."""
    told: dict[str, object] = {}
    is_well = True
    for server in servers:
        try:
            listed = await listed_once(server)
        except (Exception, ExceptionGroup) as error:  # noqa: BLE001 - Of a stranger's program; the others are asked too.
            print(f"{server.name}: cannot be asked ({type(error).__name__})", file=sys.stderr)  # noqa: T201
            is_well = False
            continue
        differs = differences(server, listed)
        is_well = is_well and set(differs.values()) <= {Refusal.UNPINNED.value}
        found = {str(each["name"]): entry(server, each) for each in listed}
        told[server.name] = differs if is_check else {"tools": found}
    return told, is_well


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.agent.pins", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("server", nargs="*")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    try:
        servers = parsed(options.file.read_text())
    except (OSError, McpFileInvalidError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    chosen = [server for server in servers if server.name in options.server or not options.server]
    told, is_well = asyncio.run(looked_at(chosen, is_check=options.check))
    print(json.dumps(told, indent=2))  # noqa: T201
    return int(options.check and not is_well)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
