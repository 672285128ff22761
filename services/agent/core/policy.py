"""Which calls of a model are made, which a person decides, and which are never made.

The model is taken to be hostile: it may have read a page that tells it what to do. So nothing here asks what it meant.
A call is decided by the run's configuration, the operator's rules, the tool, its arguments, and whether the model had
read what others wrote; equal calls in equal situations are decided equally, now and after a crash. What is not known
to be fine is not.

  1. A tool that there is not, or not in this run, or not for this role, is never called.
  2. A tool of which the run or the operator says so is called once a person has approved that very call.
  3. What reaches beyond the thread's own sandbox is called freely until the model has read what others wrote. From then
     on a person decides, unless every value in the call is one that the user wrote: then the user has said it already.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Protocol

from services.agent.core.trusted_values import UserWords, values_of

ANY_ROLE = "*"
PATTERN = re.compile(r"(?P<tool>[A-Za-z0-9_.*-]+)(?::(?P<role>user|admin))?")
OF_CONFIG = "this run asks about every call of the tool"
OF_OPERATOR = "the mesh's operator has every call of the tool approved"
AFTER_UNTRUSTED = "the model has read what others may have written, and this call reaches beyond the sandbox with more than you wrote"
NAME_CHARS_MAX = 64  # Of a tool that there is not: the model made it up, and reads it again.
NOT_AN_OBJECT = "The arguments are no JSON object, so the call was not made."


class ToolNature(Protocol):
    """What is to be known of a tool."""

    @property
    def name(self) -> str: ...

    @property
    def parameters_json_schema(self) -> str: ...

    @property
    def reaches_out(self) -> bool:
        """Whether a call may change, or tell, something outside the thread's own sandbox."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The operator's. Tools are named by patterns, such as `mcp.*`."""

    asked: Collection[str] = ()  # Every call waits for a person.
    refused: Collection[tuple[str, str]] = ()  # Tool, and the role that may not use it or ANY_ROLE.

    @classmethod
    def read(cls, *, asked: str, refused: str) -> "Rules":
        """Of lists with commas: patterns of tools, of the refused also `PATTERN:ROLE`. Raises ValueError."""
        found = [PATTERN.fullmatch(part) for part in _parts(refused)]
        wanted = [PATTERN.fullmatch(part) for part in _parts(asked)]
        if None in found or any(match is None or match["role"] for match in wanted):
            raise ValueError("a rule is the pattern of a tool's name, of a refused one also with a role")
        return cls(
            asked=tuple(match["tool"] for match in wanted if match),
            refused=tuple((match["tool"], match["role"] or ANY_ROLE) for match in found if match),
        )

    def refuse(self, tool: str, role: str) -> bool:
        """Whether the tool is not for callers of that role. An empty role is one that is not known."""
        return any(
            fnmatchcase(tool, pattern) and (to in {ANY_ROLE, role} or not role)
            for pattern, to in self.refused
        )

    def ask(self, tool: str) -> bool:
        """Whether a person has to approve every call of the tool."""
        return any(fnmatchcase(tool, pattern) for pattern in self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """In which a call is wanted."""

    tools: Collection[str]  # Of the run.
    approval_tools: Collection[str] = ()
    role: str  # Of the user, as it is now.
    is_tainted: bool  # The model may have read what others wrote: see taint.py.
    user_texts: Collection[str]  # What the user wrote in the thread.
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Allow:
    """Make the call."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Make it if a person says so."""

    reason: str  # For the person.


@dataclass(frozen=True, slots=True)
class Deny:
    """Do not make it, whoever says so."""

    reason: str  # For the model.


Verdict = Allow | Ask | Deny


def decide(name: str, arguments: object, *, tool: ToolNature | None, situation: Situation) -> Verdict:
    """What becomes of a call of `name`, which `tool` is, if there is one."""
    usable = [known for known in situation.tools if not situation.rules.refuse(known, situation.role)]
    if tool is None or tool.name != name or name not in usable:
        return Deny(_no_such_tool(name, usable))
    if not isinstance(arguments, dict):
        return Deny(NOT_AN_OBJECT)
    if name in situation.approval_tools:
        return Ask(OF_CONFIG)
    if situation.rules.ask(name):
        return Ask(OF_OPERATOR)
    if not (tool.reaches_out and situation.is_tainted):
        return Allow()
    return _after_untrusted(arguments, tool, UserWords(situation.user_texts))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _after_untrusted(arguments: Mapping[str, object], tool: ToolNature, words: UserWords) -> Verdict:
    names, defaults = _declared(tool.parameters_json_schema)
    said: list[str] = []
    foreign: list[str] = []
    for name, value in arguments.items():
        if name in defaults and _equal(value, defaults[name]):
            continue  # As if it had been left out.
        single = list(values_of({name: value}, known_names=names))
        is_the_users = all(map(words.has, single))
        if not is_the_users:
            foreign.append(name if name in names else "an argument that the tool does not know")
        elif any(part is not None for part in single):
            said.append(name)
    if foreign:
        return Ask(f"{AFTER_UNTRUSTED}: {', '.join(dict.fromkeys(foreign))}")
    # A call that says nothing is not one that the user asked for.
    return Allow() if said else Ask(AFTER_UNTRUSTED)


@lru_cache(maxsize=256)
def _declared(schema_json: str) -> tuple[frozenset[str], Mapping[str, object]]:
    """The names of properties that a schema declares, anywhere in it, and the defaults of the outermost."""
    try:
        schema = json.loads(schema_json)
    except ValueError:
        return frozenset(), {}
    if not isinstance(schema, dict):
        return frozenset(), {}
    outermost = schema.get("properties")
    properties = outermost if isinstance(outermost, dict) else {}
    defaults = {
        name: inner["default"]
        for name, inner in properties.items()
        if isinstance(inner, dict) and "default" in inner
    }
    return frozenset(_names(schema)), defaults


def _names(schema: object) -> set[str]:
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            properties = part.get("properties")
            found.update(properties if isinstance(properties, dict) else ())
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return found


def _equal(one: object, other: object) -> bool:
    """As JSON: 1 is not true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _no_such_tool(name: str, usable: Collection[str]) -> str:
    return f"There is no tool {name[:NAME_CHARS_MAX]}. Tools: {', '.join(usable) or 'none'}."
