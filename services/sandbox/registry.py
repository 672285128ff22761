"""Every execution that can be asked for by its id: those under way, and for a while those that have ended."""

import asyncio
from dataclasses import dataclass

from services.common.errors import MeshError
from services.sandbox.core.keeping import Keeping, Key, Shelf
from services.sandbox.core.owners import Owner
from services.sandbox.errors import ExecutionNotFound, RequestIdReused
from services.sandbox.execution import Execution


@dataclass(slots=True)
class _Record:
    execution: Execution
    digest: bytes  # Of what was asked for.
    told: bool  # Whether a caller stays with it to its end.
    timer: asyncio.TimerHandle | None = None


class Registry:
    """The loop is the lock. Admission bounds those under way, `Keeping` the others."""

    def __init__(self, keeping: Keeping) -> None:
        self.shelf = Shelf(keeping)
        self._keep_s = keeping.seconds
        self._records: dict[Key, _Record] = {}

    def add(self, owner: Owner, execution: Execution, digest: bytes, *, told: bool) -> None:
        self._records[owner, execution.execution_id] = _Record(execution, digest, told)

    def find(self, owner: Owner, execution_id: str) -> Execution:
        """Raises ExecutionNotFound, also for what is somebody else's."""
        if (record := self._records.get((owner, execution_id))) is None:
            raise ExecutionNotFound
        return record.execution

    def same(self, owner: Owner, execution_id: str, digest: bytes) -> Execution | None:
        """The execution that was asked for before, if it was. Raises RequestIdReused, or what it failed with.

        One that failed before it ran is forgotten: what is asked for again is to be tried again.
        """
        if (record := self._records.get((owner, execution_id))) is None:
            return None
        if record.digest != digest:
            raise RequestIdReused
        if isinstance(record.execution.result, MeshError) and not record.execution.has_begun:
            self._forget((owner, execution_id))
            return None
        return record.execution

    def ended(self, owner: Owner, execution: Execution) -> None:
        """Keep it for a while."""
        key = owner, execution.execution_id
        if (record := self._records.get(key)) is None or record.execution is not execution:
            return
        record.timer = asyncio.get_running_loop().call_later(self._keep_s, self._forget, key)
        for forgotten in self.shelf.put(key, execution.kept_bytes, told=record.told):
            self._forget(forgotten)

    def _forget(self, key: Key) -> None:
        self.shelf.remove(key)
        record = self._records.pop(key)
        if record.timer is not None:
            record.timer.cancel()
