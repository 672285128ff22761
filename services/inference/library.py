"""The models that the fleet has, and what an admin does about them: fetched, named, deleted, loaded, pinned.

What is on the disks is changed here, on every instance alike, and counts as done when a look at the instances shows
it. What is in memory is the scheduler's plan, which is told and not circumvented (keeper.py).

Two callers who pull the same model share one download per instance. That is so within a process; of several
processes, each asks the instance, and Ollama itself joins downloads of the same blob.
"""

import asyncio
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial

import structlog

from services.common.errors import InvalidRequest, MeshError, Violation
from services.inference.core.ledger import InstanceView, Ledger, Model
from services.inference.core.names import is_name, key
from services.inference.downloads import Downloads, Tell, Watch
from services.inference.errors import InstanceFailed, ModelNotFound, NoInstance
from services.inference.fan import fanned_out
from services.inference.keeper import Keeper
from services.inference.ports import Shelf, Trouble

log = structlog.get_logger(__name__)

SHOWN_WITHIN_S = 30.0  # How long a look may take to show what was done.
KEEP_OUT_S = 60.0  # How long a model that is being deleted is not loaded again, at most.
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")


class Library:
    """All instances' shelves."""

    def __init__(self, *, ledger: Ledger, shelves: Mapping[str, Shelf], keeper: Keeper) -> None:
        self._ledger = ledger
        self._shelves = shelves
        self._keeper = keeper
        self._downloads = Downloads()
        self._seen = asyncio.Event()  # Of the next look at any instance; another one for the one after.
        ledger.tells(self._look)

    async def run(self) -> None:
        """Have downloads done, until cancelled."""
        await self._downloads.run()

    # On disk

    def pull(self, model: str, instances: Sequence[str] = (), *, insecure: bool = False) -> Watch:
        """Have instances fetch a model; without `instances`, all that are ready. Closed, it is watched no longer.

        Raises InvalidRequest, NoInstance and TooManyPulls.
        """
        if not is_name(model):
            raise InvalidRequest([Violation("model", "is no model's name", "model.name")])
        names = self._named(instances) if instances else self._ready()
        works = {name: partial(self._pulled, name, model, insecure) for name in names}
        return self._downloads.watch(key(model), works, partial(self._found, model, names))

    def create(self, model: str, body: Mapping[str, object]) -> Watch:
        """Have all instances that are ready make a model, as Ollama's /api/create does with `body`."""
        if not is_name(model):
            raise InvalidRequest([Violation("model", "is no model's name", "model.name")])
        names = self._ready()
        works = {name: partial(self._created, name, model, body) for name in names}
        # Nobody joins it: what two callers make under one name need not be the same.
        return self._downloads.watch(f"create {id(body)}", works, partial(self._found, model, names))

    async def delete(self, model: str) -> None:
        """Have every instance forget a model, and free its memory first: running answers end before that."""
        found = self._known(model)
        try:
            await self._keeper.unload(key(model), "", keep_out_s=KEEP_OUT_S)
            await self._each(found.instances, lambda name: self._deleted(name, model))
            await self._shown(found.instances, lambda view: key(model) not in view.cards)
        finally:  # If it could not be deleted, or when it is pulled again, it may be loaded.
            await self._keeper.unload(key(model), "")

    async def copy(self, source: str, destination: str) -> Model:
        """Give a model a second name wherever it is."""
        if not is_name(destination):
            raise InvalidRequest([Violation("destination", "is no model's name", "model.name")])
        found = self._known(source)
        await self._each(
            found.instances,
            lambda name: self._shelves[name].copy(self._spelled(name, source), destination),
        )
        return await self._found(destination, found.instances)

    async def show(self, model: str, *, verbose: bool = False) -> Mapping[str, object]:
        """Return Ollama's own /api/show of a model: every field of it."""
        ready = [view for view in map(self._ledger.view, self._known(model).instances) if view.ready]
        if not ready:
            raise NoInstance(model=model)
        name = ready[0].name
        try:
            return await self._shelves[name].show(ready[0].cards[key(model)].name, verbose=verbose)
        except Trouble as trouble:
            raise _failed(name, trouble) from trouble

    async def has_blob(self, digest: str) -> bool:
        """Say whether every instance that is ready has a file."""
        names, found = self._ready(), True
        _check_digest(digest)

        async def ask(name: str) -> None:
            nonlocal found
            found = await self._shelves[name].has_blob(digest) and found

        await self._each(names, ask)
        return found

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes]) -> None:
        """Give a file to every instance that is ready, as it arrives, at the pace of the slowest."""
        names = self._ready()
        _check_digest(digest)
        async with fanned_out(chunks, len(names)) as copies:
            each = dict(zip(names, copies, strict=True))

            async def put(name: str) -> None:
                with closing(each[name]):
                    await self._shelves[name].put_blob(digest, each[name])

            await self._each(names, put)

    # In memory

    async def load(self, model: str, instance: str = "", *, pin: bool = False) -> str:
        """Have a model loaded, and kept if `pin`; return where. Raises ModelTooLarge before anything is tried."""
        self._known(model, instance)
        name = await self._keeper.load(key(model), instance, pin=pin)
        await self._shown([name], _anything)
        return name

    async def unload(self, model: str, instance: str = "") -> None:
        """Free a model's memory once nobody uses it, and pin it no longer."""
        found = self._known(model, instance)
        await self._keeper.unload(key(model), instance)
        await self._shown([instance] if instance else found.resident_instances, _anything)

    # Inside

    def _known(self, model: str, instance: str = "") -> Model:
        """Return a model, which `instance` must have if it is named."""
        found = self._ledger.model(key(model))
        if found is None:
            raise ModelNotFound(model=model) if self._ledger.any_ready() else NoInstance(model=model)
        if instance and instance not in self._shelves:
            raise InvalidRequest([Violation("instance", "is no instance of the fleet", "instance.name")])
        if instance and instance not in found.instances:
            raise ModelNotFound(model=model, instance=instance)
        return found

    def _ready(self) -> list[str]:
        names = [view.name for view in self._ledger.views() if view.ready]
        if not names:
            raise NoInstance
        return names

    def _named(self, instances: Sequence[str]) -> list[str]:
        broken = [
            Violation(f"instances[{place}]", "is no instance of the fleet", "instance.name")
            for place, name in enumerate(instances)
            if name not in self._shelves
        ]
        if broken:
            raise InvalidRequest(broken)
        return list(dict.fromkeys(instances))

    def _spelled(self, instance: str, model: str) -> str:
        """Return a model's name as an instance has it."""
        card = self._ledger.view(instance).cards.get(key(model))
        return model if card is None else card.name

    async def _pulled(self, instance: str, model: str, insecure: bool, tell: Tell) -> None:  # noqa: FBT001
        await self._shelves[instance].pull(model, insecure=insecure, tell=tell)

    async def _created(self, instance: str, model: str, body: Mapping[str, object], tell: Tell) -> None:
        await self._shelves[instance].create(model, body, tell)

    async def _deleted(self, instance: str, model: str) -> None:
        try:
            await self._shelves[instance].delete(self._spelled(instance, model))
        except ModelNotFound:
            """It is gone, and that is what was asked for."""

    async def _found(self, model: str, instances: Iterable[str]) -> Model:
        """Return a model once a look shows it on `instances`."""
        await self._shown(instances, lambda view: key(model) in view.cards)
        return self._known(model)

    async def _each(self, instances: Sequence[str], act: Callable[[str], Awaitable[None]]) -> None:
        """Do something on instances, at once; raise the first failure when all are done."""

        async def done(name: str) -> MeshError | None:
            try:
                await act(name)
            except Trouble as trouble:
                return _failed(name, trouble)
            except MeshError as error:
                return error
            return None

        for error in await asyncio.gather(*map(done, instances)):
            if error is not None:
                raise error

    async def _shown(self, instances: Iterable[str], holds: Callable[[InstanceView], bool]) -> None:
        """Return when a look that began after this call shows what `holds`, everywhere."""
        now_s = asyncio.get_running_loop().time()
        waited_for = list(instances)
        for name in waited_for:
            self._keeper.doubt(name)
        try:
            async with asyncio.timeout(SHOWN_WITHIN_S):
                while waited_for:
                    view = self._ledger.view(waited_for[-1])
                    if view.ready and view.asked_at_s >= now_s and holds(view):
                        waited_for.pop()
                    else:
                        await self._seen.wait()
        except TimeoutError:
            raise InstanceFailed(instance=waited_for[-1]) from None

    def _look(self, _: InstanceView) -> None:
        self._seen.set()
        self._seen = asyncio.Event()


def _anything(_: InstanceView) -> bool:
    """A look is enough, whatever it shows: others may have loaded and unloaded since."""
    return True


def _check_digest(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest([Violation("digest", "is not sha256: and 64 hexadecimal digits", "blob.digest")])


def _failed(instance: str, trouble: Trouble) -> InstanceFailed:
    log.warning("instance_failed", instance=instance, fault=trouble.fault.name, detail=trouble.detail)
    return InstanceFailed(instance=instance)
