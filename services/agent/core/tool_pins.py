"""Pins of the tools of others' servers: what an operator has reviewed is what a model is offered, and nothing else.

A description is text that a model obeys. So a tool is offered as its operator has reviewed it, from the file and not
from the server, and only while the server still says the same of it: name, description, schemas, annotations, by
SHA-256. A server that changes a tool, before or between calls, has it refused until somebody has looked again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

# What models and policy may go by. Icons and `_meta` change nothing, and may change at any time.
PINNED = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")

Definition = Mapping[str, object]  # A tool, as `tools/list` writes it.


class Refusal(Enum):
    """Why a tool is not offered; a label of a metric."""

    CHANGED = "changed"  # The server says something else of it than what was reviewed.
    MISSING = "missing"  # The server has it no more.
    UNPINNED = "unpinned"  # Nobody has reviewed it.


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be thought of what a server lists."""

    allowed: frozenset[str]
    refused: Mapping[str, Refusal]


def pinned_part(listed: Definition) -> Definition:
    """The definition less what is not reviewed, and less what is not there."""
    return {key: listed[key] for key in PINNED if listed.get(key) is not None}


def pin(definition: Definition) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON."""
    text = json.dumps(
        pinned_part(definition), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def judged(pins: Mapping[str, str], listed: Sequence[Definition]) -> Verdict:
    """`pins` are by the tool's name at its server. A name that is listed twice is nobody's."""
    found: dict[str, list[str]] = {}
    for definition in listed:
        found.setdefault(str(definition.get("name")), []).append(_pin_or_none(definition))
    allowed = {name for name, wanted in pins.items() if found.get(name) == [wanted]}
    refused = {name: Refusal.UNPINNED for name in found if name not in pins}
    for name in pins.keys() - allowed:
        refused[name] = Refusal.CHANGED if name in found else Refusal.MISSING
    return Verdict(frozenset(allowed), refused)


def _pin_or_none(definition: Definition) -> str:
    try:
        return pin(definition)
    except (ValueError, TypeError, RecursionError):  # Not JSON: no pin is empty.
        return ""
