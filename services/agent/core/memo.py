"""What a run need not ask twice: calls that change nothing, until a call was made that may have changed something."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

RESULTS_MAX = 64  # The newest are kept.
CHARS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call under way."""

    key: str
    world: int  # Counts the calls that may have changed something.
    is_pure: bool


class Memo:
    """Of one run. What failed is not kept: it may go well the next time.

    Calls of one step run at the same time. So what is returned is kept only if nothing that may change something
    has begun or ended since its call began.
    """

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}
        self._chars = 0
        self._world = 0

    def recall(self, tool: str, arguments: Mapping[str, object]) -> str | None:
        """What an equal call returned."""
        return self._kept.get(_key(tool, arguments))

    def begin(self, tool: str, arguments: Mapping[str, object], *, is_pure: bool) -> Ticket:
        """A call is made. It is pure if it changes nothing."""
        if not is_pure:
            self._change()
        return Ticket(_key(tool, arguments), self._world, is_pure)

    def end(self, ticket: Ticket, content: str, *, failed: bool) -> None:
        """It has returned; or, failed, may have."""
        if not ticket.is_pure:
            self._change()
        elif not failed and ticket.world == self._world and len(content) <= CHARS_MAX:
            self._keep(ticket.key, content)

    def _keep(self, key: str, content: str) -> None:
        self._forget(key)
        self._kept[key] = content
        self._chars += len(content)
        while len(self._kept) > RESULTS_MAX or self._chars > CHARS_MAX:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: str) -> None:
        self._chars -= len(self._kept.pop(key, ""))

    def _change(self) -> None:
        self._world += 1
        self._kept.clear()
        self._chars = 0


def _key(tool: str, arguments: Mapping[str, object]) -> str:
    return json.dumps([tool, arguments], sort_keys=True)
