"""What a script is made of. A string is a token; the rest is below."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Think:
    """A token of thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; delivered with the end, as Ollama does."""

    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Fail before the first byte, with a status."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Fail:
    """`{"error": text}`: a line, or status 500 if nothing was sent yet."""

    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that is not JSON. Something must have been sent before."""

    line: bytes = b'{"model": "smol\n'


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The last token once more, which nobody has written."""


@dataclass(frozen=True, slots=True)
class DuplicateEnd:
    """From here on: the last object comes twice."""


@dataclass(frozen=True, slots=True)
class Deaf:
    """Wait, and do not notice until then that the caller has left: so a prompt is read."""

    until: asyncio.Event


@dataclass(frozen=True, slots=True)
class Hang:
    """Say nothing more, and stay connected until the caller leaves."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Reset the connection."""


@dataclass(frozen=True, slots=True)
class End:
    """End the reply properly, without the last object."""


# What says nothing, or nothing that is right. An event is waited for.
Disturbance: TypeAlias = Refuse | Fail | Malformed | Hang | Cut | Deaf | asyncio.Event
Step: TypeAlias = str | Think | Call | Duplicate | DuplicateEnd | End | Disturbance
