"""Who has models loaded and unloaded on somebody's word: the scheduler, which is told what is wanted.

Nothing is loaded past it. It knows what is busy, what is pinned and what fits, so residency stays its plan.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, Protocol, TypeAlias

from services.common.errors import MeshError
from services.inference.core.ledger import Ledger
from services.inference.core.residency import Residency
from services.inference.core.wishes import WishBook
from services.inference.errors import InstanceFailed, NoInstance
from services.inference.upkeep import Upkeep

# Longest that a wish is waited for, whatever the caller's deadline: a load may wait for others to end, and so may
# what runs before an unload.
WITHIN_S = 3600.0

Wish: TypeAlias = tuple[Literal["load", "unload"], str, str]  # What, where, and the model's key.


class Keeper(Protocol):
    """Keeps models in memory, in this process or in another (processes/far_keeper.py)."""

    def doubt(self, instance: str) -> None:
        """Have an instance looked at now."""

    async def load(self, model: str, instance: str, *, pin: bool) -> str:
        """Have the model of a key loaded, on `instance` or, if that is empty, where it disturbs least; return where.

        `pin` keeps it there until it is unloaded. Raises ModelTooLarge, NoInstance and InstanceFailed.
        """

    async def unload(self, model: str, instance: str, *, keep_out_s: float = 0.0) -> None:
        """Unpin a model and free its memory on `instance`, or, if that is empty, everywhere.

        What runs ends first. For `keep_out_s`, or until the next call, it is not loaded again, whoever waits for it.
        Raises InstanceFailed.
        """


class NearKeeper:
    """Tells the scheduler of this process, and waits for what becomes of it."""

    def __init__(
        self,
        ledger: Ledger,
        residency: Residency,
        wishes: WishBook,
        upkeep: Upkeep,
        *,
        doubt: Callable[[str], None],
        changed: Callable[[str], None],
    ) -> None:
        """`changed` is called when the wishes of an instance are not what they were."""
        self._ledger = ledger
        self._residency = residency
        self._wishes = wishes
        self._upkeep = upkeep
        self._doubt = doubt
        self._changed = changed
        self._waiting: defaultdict[Wish, set[asyncio.Future[None]]] = defaultdict(set)
        self._kept_out: set[tuple[str, str]] = set()
        self._pinned_by: dict[tuple[str, str], list[None]] = {}  # Those who wait for a pin that is new.

    def doubt(self, instance: str) -> None:
        self._doubt(instance)

    async def load(self, model: str, instance: str, *, pin: bool) -> str:
        names = [
            view.name
            for view in self._ledger.views()
            if view.ready and model in view.cards and instance in {"", view.name}
        ]
        if not names:
            raise NoInstance(model=model)
        name = self._residency.room_for(model, names, _now_s())
        self._let_in(name, model)
        self._settle(("unload", name, model), ok=False)  # The last word counts.
        with self._pinning(name, model) if pin else nullcontext():
            if self._residency.is_held(name, model):
                await self._touch(name, model)
            else:
                self._wishes.load(name, model)
                await self._come_true(("load", name, model))
        return name

    async def unload(self, model: str, instance: str, *, keep_out_s: float = 0.0) -> None:
        views = [view for view in self._ledger.views() if instance in {"", view.name}]
        for view in views if not keep_out_s else ():
            self._let_in(view.name, model)
        async with asyncio.TaskGroup() as tasks:
            ending = [
                tasks.create_task(self._unload(view.name, model, keep_out_s))
                for view in views
                if model in view.cards or model in view.residents
            ]
        for task in ending:
            if (error := task.result()) is not None:
                raise error

    # What the engine says

    def loaded(self, instance: str, model: str, *, ok: bool) -> None:
        """A load has ended, whoever wanted it."""
        self._settle(("load", instance, model), ok=ok)

    def unloaded(self, instance: str, model: str, *, ok: bool) -> None:
        self._settle(("unload", instance, model), ok=ok)

    def seen(self, instance: str) -> None:
        """An instance was looked at: others may have loaded and unloaded there, too."""
        for wish in [wish for wish in self._waiting if wish[1] == instance]:
            what, _, model = wish
            is_loading = self._residency.is_loading(instance, model)
            if self._residency.is_held(instance, model) == (what == "load") and not is_loading:
                self._settle(wish, ok=True)

    # Inside

    @contextmanager
    def _pinning(self, name: str, model: str) -> Iterator[None]:
        """Pin a model, for good if the block or that of another who pins it meanwhile succeeds."""
        if self._wishes.pin(name, model):
            self._pinned_by[name, model] = []
        callers = self._pinned_by.get((name, model), [])  # Where it was pinned before, nothing is undone.
        callers.append(None)
        try:
            yield
        except BaseException:
            callers.pop()
            if not callers and self._pinned_by.get((name, model)) is callers:
                del self._pinned_by[name, model]
                self._wishes.unpin(name, model)
                self._changed(name)
            raise
        if self._pinned_by.get((name, model)) is callers:
            del self._pinned_by[name, model]

    async def _touch(self, name: str, model: str) -> None:
        """Tell the instance how long to keep what it has loaded."""
        self._changed(name)
        if not isinstance(await self._upkeep.load(name, model), float):
            raise InstanceFailed(instance=name)

    async def _unload(self, name: str, model: str, keep_out_s: float) -> MeshError | None:
        """Return why it failed, so that the others go on."""
        self._wishes.unpin(name, model)
        self._settle(("load", name, model), ok=False)
        held = self._residency.is_held(name, model) or self._residency.is_loading(name, model)
        if held and not self._ledger.view(name).ready:  # It cannot be told now.
            self._changed(name)
            return InstanceFailed(instance=name)
        if held or keep_out_s:
            self._wishes.unload(name, model)
        if keep_out_s:
            self._kept_out.add((name, model))
            asyncio.get_running_loop().call_later(keep_out_s, self._let_in, name, model)
        try:
            if held:
                await self._come_true(("unload", name, model))
            else:
                self._changed(name)
                await self._unload_foreign(name, model)
        except MeshError as error:
            return error
        return None

    async def _unload_foreign(self, name: str, model: str) -> None:
        """Unload what is there as nobody here would have it loaded, and the plan does not count."""
        if model in self._ledger.view(name).residents and await self._upkeep.unload(name, model):
            raise InstanceFailed(instance=name)

    def _let_in(self, name: str, model: str) -> None:
        """It may be loaded again."""
        if (name, model) in self._kept_out:
            self._kept_out.discard((name, model))
            if ("unload", name, model) not in self._waiting:
                self._wishes.unloaded(name, model)
                self._changed(name)

    async def _come_true(self, wish: Wish) -> None:
        """Wait for what becomes of a wish; it is one no longer when nobody waits for it."""
        name = wish[1]
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[wish].add(outcome)
        self._changed(name)
        try:
            async with asyncio.timeout(WITHIN_S):
                await outcome
        except TimeoutError:
            raise InstanceFailed(instance=name) from None
        finally:
            if (waiting := self._waiting.get(wish)) is not None:  # Else it has been settled.
                waiting.discard(outcome)
                if not waiting:
                    self._drop(wish)

    def _settle(self, wish: Wish, *, ok: bool) -> None:
        if wish not in self._waiting:
            return
        for outcome in self._waiting[wish]:
            if outcome.done():
                continue
            if ok:
                outcome.set_result(None)
            else:
                outcome.set_exception(InstanceFailed(instance=wish[1]))
        self._drop(wish)

    def _drop(self, wish: Wish) -> None:
        what, name, model = wish
        del self._waiting[wish]
        if what == "load":
            self._wishes.loaded(name, model)
        elif (name, model) not in self._kept_out:
            self._wishes.unloaded(name, model)
        self._changed(name)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
