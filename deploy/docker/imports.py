"""Which distributions an image needs: what the modules that run in it import, followed through all sources of ours.

Imports inside functions count, too: they are those that fail at three in the morning.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from deploy.docker.images import ROOT

SOURCES = (ROOT, ROOT / "gen" / "python")


def needed(modules: Iterable[str]) -> Mapping[str, str]:
    """Distributions by their canonical names, each with a module that is imported of it."""
    found: dict[str, str] = {}
    seen: set[Path] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if (file := _file(name)) is not None:
            if file not in seen:
                seen.add(file)
                waiting += _imported(file)
        elif (owner := _owner(name)) is not None:
            found.setdefault(owner, name)
        elif "." in name:  # Perhaps it names something in a module.
            waiting.append(name.rpartition(".")[0])
    return found


def locked(lock: Path) -> Mapping[str, str]:
    """Versions by canonical names."""
    pins = (
        line.partition(";")[0].rstrip(" \\").split("==")
        for line in lock.read_text().splitlines()
        if "==" in line
    )
    return {canonicalize_name(name): version for name, version in pins}


def _file(name: str) -> Path | None:
    for source in SOURCES:
        place = source.joinpath(*name.split("."))
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.exists():
                return file
    return None


@cache
def _imported(file: Path) -> tuple[str, ...]:
    return tuple(_named(ast.parse(file.read_text())))


def _named(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _owner(name: str) -> str | None:
    return _owners().get(name)


@cache
def _owners() -> Mapping[str, str]:
    """Modules of this environment by their dotted names, with the distribution that brought each."""
    owners: dict[str, str] = {}
    for distribution in distributions():
        for file in distribution.files or ():
            if file.suffix in {".py", ".so"} and ".." not in file.parts:
                parts = [*file.parts[:-1], file.name.partition(".")[0]]
                dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                owners.setdefault(dotted, canonicalize_name(distribution.name))
    return owners
