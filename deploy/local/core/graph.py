"""The stack as data: which parts there are, what each waits for, and how long each may take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str
    after: tuple[str, ...] = ()  # Started only when these are up.
    uses: tuple[str, ...] = ()  # May start before these are up, but is ready only when they are.
    one_shot: bool = False  # Up when it has ended well, rather than when it answers.
    has_preparation: bool = False
    prepare_within_s: float = 1800.0  # A model on a slow line; the installer shows that it moves.
    start_within_s: float = 60.0  # Counted from when all of `after` and `uses` are up.
    stop_within_s: float = 10.0

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.after, *self.uses)


def all_needs(nodes: Iterable[Node]) -> Mapping[str, frozenset[str]]:
    """What each part needs, directly or not. A service needs the store that its migration came after.

    Each node must be listed after all that it needs, so there is no cycle, and one order for reports.
    """
    needs: dict[str, frozenset[str]] = {}
    for node in nodes:
        assert node.name not in needs, f"{node.name} is listed twice"
        assert needs.keys() >= set(node.needs), f"{node.name} is listed before what it needs"
        needs[node.name] = frozenset(node.needs).union(*(needs[name] for name in node.needs))
    return needs
