"""Every tool of the service itself, and what each may do: policy, repetition and memory go by this and nothing else.

What changes only the thread's own sandbox is confined: no network leads out of it, and it ends with the thread. What
programs and files there return is written by the model from what it had read before, so that it is no less to be
trusted than the model: what others write gets in by `http_fetch` and by MCP servers, and is told there.
"""

import json
from collections.abc import Mapping, Sequence

from services.agent.ports import Effect, ToolSpec

CODE_BYTES_MAX = 1_048_576
READ_CHARS_MAX = 8_000  # A few thousand tokens: a model that needs more reads on, or computes.
WRITE_BYTES_MAX = 1_048_576
FETCH_CHARS_MAX = 12_000
HOSTS_SHOWN_MAX = 20


def _schema(required: Sequence[str], properties: Mapping[str, object]) -> str:
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        }
    )


_PATH = {
    "type": "string",
    "description": "Relative to the folder in which programs run, such as data/table.csv",
}

RUN_PYTHON = ToolSpec(
    name="run_python",
    description=(
        "Runs Python 3 code without network, and returns what it prints. Variables and files are kept for the next "
        "call."
    ),
    parameters_json_schema=_schema(
        ["code"],
        {
            "code": {
                "type": "string",
                "description": "Python code that prints its result, such as: print(2 + 3)",
            }
        },
    ),
    effect=Effect.STATE_CHANGING,
    is_confined=True,
    takes_key=True,  # The sandbox knows the execution again by its id.
    timeout_s=30.0,
)
READ_FILE = ToolSpec(
    name="read_file",
    description="Reads a text file that run_python or write_file has left.",
    parameters_json_schema=_schema(
        ["path"],
        {
            "path": _PATH,
            "offset_bytes": {
                "type": "integer",
                "minimum": 0,
                "default": 0,
                "description": "Where to begin; the answer says where a long file goes on",
            },
        },
    ),
    effect=Effect.NONE,
    is_confined=True,
    timeout_s=15.0,
)
WRITE_FILE = ToolSpec(
    name="write_file",
    description="Writes a text file, whole, where run_python and read_file find it. One that exists is replaced.",
    parameters_json_schema=_schema(
        ["path", "content"], {"path": _PATH, "content": {"type": "string", "description": "All of the text"}}
    ),
    effect=Effect.IDEMPOTENT,
    is_confined=True,
    timeout_s=15.0,
)


def http_fetch(hosts: Sequence[str]) -> ToolSpec:
    """A request can tell its host what the model knows, by its address alone: so it is external, and not free."""
    named = ", ".join(hosts[:HOSTS_SHOWN_MAX]) + (", ..." if len(hosts) > HOSTS_SHOWN_MAX else "")
    return ToolSpec(
        name="http_fetch",
        description=f"Reads a page or another text from the web, of one of these hosts: {named}.",
        parameters_json_schema=_schema(
            ["url"], {"url": {"type": "string", "description": "Begins with https:// or http://"}}
        ),
        effect=Effect.EXTERNAL,
        returns_untrusted=True,
        timeout_s=20.0,
    )
