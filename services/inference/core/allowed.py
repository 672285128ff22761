"""Which models a caller may use: those that both its role and its tenant are allowed.

A pattern is a model's name in any spelling, or has wildcards (`*`, `?`, `[...]`) and then stands for every name, tag
included, that it fits: "llama3.2:*", "*:7b*", "hf.co/acme/*".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import TypeAlias

from services.inference.core.names import key
from services.inference.core.tables import Tables, shown

PATTERNS_MAX = 1000  # Of one role or tenant.
PATTERN_CHARS_MAX = 512
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Patterns:
    """Some models, by their names."""

    texts: tuple[str, ...]
    _matches: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole = "|".join(
            translate(text.lower()) if _WILD.search(text) else re.escape(key(text)) + r"\Z"
            for text in self.texts
        )
        object.__setattr__(self, "_matches", re.compile(whole or r"(?!)"))

    def fit(self, model: str) -> bool:
        """Whether they name the model of a key."""
        return self._matches.match(model) is not None

    def __or__(self, other: "Patterns") -> "Patterns":
        return Patterns(tuple(dict.fromkeys((*self.texts, *other.texts))))


# None is every model.
Models: TypeAlias = Patterns | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What one caller may use."""

    role: Models = None
    tenant: Models = None

    def names(self, model: str) -> bool:
        """Whether the model of a key is among them."""
        return all(models is None or models.fit(model) for models in (self.role, self.tenant))


ALL = Allowed()


def either(models: Models, others: Models) -> Models:
    """Return what one of two allows."""
    return None if models is None or others is None else models | others


def read_patterns(tables: Tables, value: object, *, where: str) -> Models:
    """Return what a list of patterns in configuration means; mistakes go into `tables`."""
    if not isinstance(value, list) or not all(_is_pattern(each) for each in value):
        tables.mistakes.append(f"has something else than a list of names or patterns of models for {where}")
        return None
    if len(value) > PATTERNS_MAX:
        tables.mistakes.append(f"has more than {PATTERNS_MAX} patterns for {where}")
        return None
    return Patterns(tuple(value))


def read_tenant_models(text: str) -> tuple[Mapping[str, Models], list[str]]:
    """Return the models that a JSON table allows tenants, and every mistake in it."""
    tables = Tables()
    found = {
        tenant: read_patterns(tables, value, where=shown(tenant))
        for tenant, value in tables.top(text).items()
    }
    return found, tables.mistakes


def _is_pattern(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= PATTERN_CHARS_MAX
