"""What the files of this folder say together, as Docker would read it: overlays over the base, variables put in."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

HERE = Path(__file__).parent
BASE, OVERLAYS = "compose.yaml", ("compose.gpu.yaml", "compose.observe.yaml")
Json = dict[str, Any]
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<text>[^}]*))?\}")


class UnsetError(Exception):
    """A variable that must be set and is not."""


def read(
    folder: Path = HERE, overlays: Iterable[str] = OVERLAYS, variables: Mapping[str, str] | None = None
) -> Json:
    """With `variables`, each is put in; raises UnsetError. Without, they stay as they are written."""
    merged: Json = {}
    for name in (BASE, *overlays):
        text = (folder / name).read_text()
        found = yaml.safe_load(text)
        merged = _over(merged, _put_in(found, variables) if variables is not None else found)
    return merged


def names(part: object) -> list[str]:
    """Of what may be a list or a mapping: networks, secrets, depends_on."""
    if isinstance(part, Mapping):
        return [str(name) for name in part]
    return [str(one["source"] if isinstance(one, Mapping) else one) for one in part or ()]  # type: ignore[attr-defined]


def _over(below: Json, above: Json) -> Json:
    merged = dict(below)
    for name, value in above.items():
        known = merged.get(name)
        merged[name] = _over(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _put_in(part: Any, variables: Mapping[str, str]) -> Any:  # noqa: ANN401 - YAML.
    if isinstance(part, dict):
        return {name: _put_in(value, variables) for name, value in part.items()}
    if isinstance(part, list):
        return [_put_in(value, variables) for value in part]
    return _VARIABLE.sub(lambda match: _value(match, variables), part) if isinstance(part, str) else part


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if value := variables.get(match["name"], ""):
        return value
    if match["how"] == ":?":
        raise UnsetError(match["name"])
    return match["text"] or ""
