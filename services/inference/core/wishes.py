"""What an operator wants instances to have in memory, whether or not anybody waits for it.

A wish is a state and not a command: it is told to the scheduler with all else that is known of an instance, and the plan
of what lives where (core/residency.py) sees to it, again and again if need be. So a model that is pinned comes back
when its instance has been started anew.
"""

from collections.abc import Container
from dataclasses import dataclass

from services.inference.core.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Of one instance; models by key."""

    pinned: frozenset[str] = frozenset()  # To be in memory, and not to give way.
    loads: frozenset[str] = frozenset()  # To be loaded, once.
    unloads: frozenset[str] = (
        frozenset()
    )  # To be unloaded once they are idle, and not to be loaded meanwhile.


NO_WISHES = Wishes()


class WishBook:
    """The wishes of all instances."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._pins: set[tuple[str, str]] = set()
        self._released: set[tuple[str, str]] = set()  # That configuration pins, and somebody unpinned.
        self._loads: set[tuple[str, str]] = set()
        self._unloads: set[tuple[str, str]] = set()

    def pin(self, instance: str, model: str) -> bool:
        """Say whether it was not pinned before."""
        is_new = not self._is_pinned(instance, model)
        self._released.discard((instance, model))
        self._pins.add((instance, model))
        return is_new

    def unpin(self, instance: str, model: str) -> None:
        self._pins.discard((instance, model))
        if self._catalog.of(model).pinned:
            self._released.add((instance, model))

    def load(self, instance: str, model: str) -> None:
        self._loads.add((instance, model))
        self._unloads.discard((instance, model))

    def unload(self, instance: str, model: str) -> None:
        self._unloads.add((instance, model))
        self._loads.discard((instance, model))

    def loaded(self, instance: str, model: str) -> None:
        """Nobody wants it loaded any more: it is, or it could not be, or they have left."""
        self._loads.discard((instance, model))

    def unloaded(self, instance: str, model: str) -> None:
        self._unloads.discard((instance, model))

    def of(self, instance: str, *, models: Container[str], residents: Container[str]) -> Wishes:
        """Return the wishes of an instance that has `models` on its disk and `residents` in its memory.

        What it has not is forgotten.
        """
        for wishes in (self._pins, self._released, self._loads):
            wishes -= {wish for wish in wishes if wish[0] == instance and wish[1] not in models}
        self._unloads -= {
            wish
            for wish in self._unloads
            if wish[0] == instance and wish[1] not in models and wish[1] not in residents
        }
        configured = {model for model in self._catalog.pinned() if model in models}
        return Wishes(
            pinned=frozenset(
                model for model in configured | _of(instance, self._pins) if self._is_pinned(instance, model)
            ),
            loads=frozenset(_of(instance, self._loads)),
            unloads=frozenset(_of(instance, self._unloads)),
        )

    def _is_pinned(self, instance: str, model: str) -> bool:
        wish = instance, model
        return wish in self._pins or (self._catalog.of(model).pinned and wish not in self._released)


def _of(instance: str, wishes: set[tuple[str, str]]) -> set[str]:
    return {model for name, model in wishes if name == instance}
