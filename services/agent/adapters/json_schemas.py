"""Whether values keep JSON Schemas, when neither can be trusted: schemas come from users and from others' servers.

`jsonschema` by itself fetches what a schema refers to, follows references without end, and matches patterns that take
for ever, to compile as well as to match. Here nothing is fetched, a check is given up after so many steps or so long, a
pattern after so long, and what compiling might not survive is refused: what was given up is not kept.
"""
# ruff: noqa: ANN401, ARG001 - The signatures are jsonschema's.

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from services.agent.core import patterns

KEYS_MAX = 3_000  # Of a schema, in all of its parts: they take half a second to look at.
STEPS_MAX = 20_000  # Keywords that are looked at; a schema of usual size takes some hundred.
CHECK_S_MAX = 0.5  # Of this thread: a step may be a thousand comparisons.
PATTERN_WAIT_S = 0.05
PROBLEMS_MAX = 4
PROBLEM_CHARS_MAX = 300
TOO_MUCH = "it takes too long to check"
NOTHING_FETCHED: Registry[Any] = Registry()

_Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class SchemaInvalidError(Exception):
    """The text is no JSON Schema, and why."""


class _GivenUpError(Exception):
    """The check takes more than it may."""


class JsonSchema:
    """One schema, ready to check values."""

    def __init__(self, text: str) -> None:
        """Raises SchemaInvalidError."""
        try:
            schema = json.loads(text, parse_constant=_refuse)
            if not isinstance(schema, dict):
                raise SchemaInvalidError("is no JSON object")
            self.schema: Mapping[str, object] = _of_one_draft(schema)
            Draft202012Validator.check_schema(self.schema)
        except (ValueError, RecursionError):
            raise SchemaInvalidError("is not JSON") from None
        except SchemaError as error:
            raise SchemaInvalidError(f"is no JSON Schema: {_told(error)}") from None

    def problem(self, value: object) -> str | None:
        """What of `value` breaks the schema, in words for a model; None if nothing does."""
        validator = _counting()(self.schema, registry=NOTHING_FETCHED)
        problems: list[str] = []
        try:
            for error in validator.iter_errors(value):
                problems.append(_told(error))
                if len(problems) == PROBLEMS_MAX:
                    break
        except (_GivenUpError, RecursionError):
            return TOO_MUCH
        except Unresolvable:
            return "it refers to a schema that is not here"
        return "; ".join(problems) or None


def flaw_of(text: str) -> str | None:
    """What is wrong with a schema, given as text."""
    try:
        JsonSchema(text)
    except SchemaInvalidError as error:
        return str(error)
    return None


@lru_cache(maxsize=256)
def checked_by(schema: str) -> JsonSchema:
    """The schema that a text is. Raises SchemaInvalidError."""
    return JsonSchema(schema)


def problem_with(schema: str, arguments: object) -> str | None:
    """How arguments break a tool's schema, in words for whoever wrote them."""
    return checked_by(schema).problem(arguments)


def _counting() -> Any:
    """A validator that is good for so many steps."""
    steps, ends_s = 0, time.thread_time() + CHECK_S_MAX

    def counted(check: _Check) -> _Check:
        def step(validator: Any, keyword: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
            nonlocal steps
            steps += 1
            if steps > STEPS_MAX or time.thread_time() > ends_s:
                raise _GivenUpError
            yield from check(validator, keyword, value, schema) or ()

        return step

    checks = {**Draft202012Validator.VALIDATORS, **_OF_PATTERNS, "uniqueItems": _unique_items}
    counting = {name: counted(check) for name, check in checks.items()}
    return extend(Draft202012Validator, counting)  # type: ignore[no-untyped-call]


def _pattern(validator: Any, pattern: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not _matches(pattern, value):
        yield ValidationError(f"it does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    for pattern, inner in patterns.items():
        for key, each in value.items():
            if _matches(pattern, key):
                yield from validator.descend(each, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Any, inner: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key, each in value.items():
        if key in known or any(_matches(pattern, key) for pattern in patterns):
            continue
        if inner is False:
            yield ValidationError(f"{key!r} is not a property that it may have")
        else:
            yield from validator.descend(each, inner, path=key)


# Those that match patterns by themselves.
_OF_PATTERNS = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}


def _unique_items(validator: Any, is_asked: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """The library compares each with each."""
    if is_asked and isinstance(value, list):
        forms = {json.dumps(_one_form(each), sort_keys=True) for each in value}
        if len(forms) < len(value):
            yield ValidationError("an item is there twice")


def _one_form(value: object) -> object:
    """To JSON Schema, 1.0 is 1."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_one_form(each) for each in value]
        case dict():
            return {key: _one_form(each) for key, each in value.items()}
        case _:
            return value


def _of_one_draft(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without the draft that it names. Raises SchemaInvalidError where a part names one of its own.

    Also of what takes too long by itself. Such a part would be checked by the library's own validator of that draft, which has no bounds. So would one
    keyword that looks at patterns by itself.
    """
    inner = {key: value for key, value in schema.items() if key != "$schema"}
    for count, (key, value) in enumerate(_every_key(inner), 1):
        if count > KEYS_MAX:
            raise SchemaInvalidError(f"has more than {KEYS_MAX} keys")
        if (flaw := _flaw_of_patterns(key, value)) is not None:
            raise SchemaInvalidError(f"has a pattern that {flaw}")
        if key == "$schema" and isinstance(value, str):
            raise SchemaInvalidError("names a draft in one of its parts")
        if key == "unevaluatedProperties":
            raise SchemaInvalidError(
                "has unevaluatedProperties, which is not served; use additionalProperties"
            )
    return inner


def _flaw_of_patterns(key: str, value: object) -> str | None:
    """Of those that a keyword names. What only looks like one is looked at as well: nobody says which it is."""
    named: Iterable[str] = ()
    if key == "pattern" and isinstance(value, str):
        named = (value,)
    elif key == "patternProperties" and isinstance(value, dict):
        named = value
    return next((flaw for pattern in named if (flaw := patterns.flaw_of(pattern)) is not None), None)


def _every_key(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from value.items()
        for each in value.values():
            yield from _every_key(each)
    elif isinstance(value, list):
        for each in value:
            yield from _every_key(each)


def _matches(pattern: str, text: str) -> bool:
    try:
        return regex.search(pattern, text, timeout=PATTERN_WAIT_S) is not None
    except (TimeoutError, regex.error):
        raise _GivenUpError from None


def _told(error: Any) -> str:
    text = f"at {error.json_path}: {error.message}"
    return text if len(text) <= PROBLEM_CHARS_MAX else f"{text[:PROBLEM_CHARS_MAX]}…"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
