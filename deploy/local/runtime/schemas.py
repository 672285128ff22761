"""JSON schemas as llama.cpp's constrained decoding takes them.

xllamacpp builds llama.cpp with llguidance. Unlike llama.cpp's own converter it does not refuse a schema that
it cannot compile: it logs, and the model writes what it likes. Hence `lenient`, which lets it ignore keywords
it does not know, a check of the commonest mistake before, and a check of what was written.
"""

import msgspec

from deploy.local.runtime.errors import RunnerRefusedError
from deploy.local.runtime.wire.requests import Json

IGNORED = "the schema could not be compiled, so the output does not follow it"
FIRST_CHARACTERS = frozenset('{["-0123456789tfn')  # Of a JSON value.
LEADING_SPACE_MAX = 64
ITEMS_MAX = (
    20_000  # llguidance writes out a rule for each: a hundred times as many are seconds, then gigabytes.
)
TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


def constraint(schema: Json, *, compact: bool = False) -> Json:
    """llama.cpp's parameters. Raises RunnerRefusedError. `compact` output has no spaces: a third fewer tokens."""
    _check(schema)
    return {"json_schema": {**schema, "x-guidance": {"lenient": True, "whitespace_flexible": not compact}}}


def check_written(text: str, *, ended: bool) -> None:
    """Better an error than prose where an object was promised. Raises RunnerRefusedError: the schema is the request's."""
    try:
        if ended:
            msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise RunnerRefusedError(IGNORED) from error
    if not FIRST_CHARACTERS.issuperset(text[:LEADING_SPACE_MAX].lstrip()[:1]):
        raise RunnerRefusedError(IGNORED)


def _check(schema: object) -> None:
    """Every `type` is one that JSON schema knows, and no list is endless to compile."""
    match schema:
        case dict():
            items_max = schema.get("maxItems")
            if isinstance(items_max, int | float) and items_max > ITEMS_MAX:
                raise RunnerRefusedError(f"JSON schema conversion failed: maxItems is over {ITEMS_MAX}")
            kind = schema.get("type", [])
            # A property may be called "type"; then it is a schema.
            for name in [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []:
                if name not in TYPES:
                    raise RunnerRefusedError(f"JSON schema conversion failed: unrecognized type {name!r}")
            for part in schema.values():
                _check(part)
        case list():
            for part in schema:
                _check(part)
