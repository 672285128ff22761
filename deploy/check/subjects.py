"""Finds the subjects: each module of this package with a function `check() -> list[str]`.

Its problems are sentences, none of them means fine; it raises Skipped where it cannot look. A subject that fails by any
other exception has a problem, too, and the others are looked at all the same.
"""

import pkgutil
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from deploy.check.outcome import Outcome, Skipped

Check = Callable[[], list[str]]


def subjects(folder: Path = Path(__file__).parent, package: str = "deploy.check") -> Mapping[str, Check]:
    """The checks by name, in alphabetical order."""
    names = sorted(
        module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_")
    )
    modules = {name: import_module(f"{package}.{name}") for name in names}
    return {name: module.check for name, module in modules.items() if hasattr(module, "check")}


def looked_at(subject: str, check: Check) -> Outcome:
    started_s = time.monotonic()
    try:
        problems, skipped = check(), None
    except Skipped as reason:
        problems, skipped = [], str(reason)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other subjects are looked at.
        problems, skipped = [f"The check itself failed: {type(error).__name__}: {error}"], None
    return Outcome(subject, time.monotonic() - started_s, problems, skipped)
