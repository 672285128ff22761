"""A secret's value as it is sealed: bound to what it is, for the seal itself does not say.

Fernet has no associated data: two sealed values can be swapped, and each opens in the other's place. So what names the
value is sealed with it, and must be what is asked for when it is opened.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

_DOMAIN = "ollamesh-secret-1"
COUNT_MAX = 1000  # Of an organisation.


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a value is sealed with."""

    organization_id: str
    name: str
    version: int
    readers: Sequence[str]


def bound(binding: Binding, value: bytes) -> bytes:
    """What is to be sealed. JSON holds no NUL, so the first one ends what names the value."""
    return _header(binding) + b"\0" + value


def unbound(binding: Binding, opened: bytes) -> bytes | None:
    """The value, if it was sealed for just that."""
    header, _, value = opened.partition(b"\0")
    return value if header == _header(binding) else None


def _header(binding: Binding) -> bytes:
    named = [_DOMAIN, binding.organization_id, binding.name, binding.version, sorted(binding.readers)]
    return json.dumps(named, separators=(",", ":")).encode()
