"""What instances fetch or make, and those who watch it: one download, however many ask for it.

A download ends when its instance is done, fails, or when nobody watches it any more; Ollama keeps what it has and goes
on from there. A watcher is told the newest of each instance, however slow it reads: progress is not a log.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from services.common.errors import MeshError
from services.inference.core.ledger import Model
from services.inference.errors import InstanceFailed, InstanceLost, TooManyPulls
from services.inference.ports import Progress, Trouble

log = structlog.get_logger(__name__)

DOWNLOADS_MAX = 4  # At once per instance.
# A watcher is told the same again after so long: proxies end streams that are silent, and Ollama is while it hashes.
REPEAT_AFTER_S = 30.0

Tell: TypeAlias = Callable[[Progress], None]
Work: TypeAlias = Callable[[Tell], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Told:
    """How far one instance is."""

    instance: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class Done:
    """All instances are done; the last that is told."""

    model: Model


class _Download:
    """One instance at one piece of work."""

    def __init__(self, instance: str, work: Work) -> None:
        self.instance = instance
        self.work = work
        self.latest: Progress | None = None
        self.version = 0
        self.ended = False
        self.error: MeshError | None = None
        self.watches: set[Watch] = set()
        self.task: asyncio.Task[None] | None = None

    def tell(self, progress: Progress) -> None:
        self.latest = progress
        self.version += 1
        self._wake()

    async def run(self) -> None:
        try:
            await self.work(self.tell)
        except Trouble as trouble:
            log.warning(
                "download_failed", instance=self.instance, fault=trouble.fault.name, detail=trouble.detail
            )
            kind = InstanceLost if self.version else InstanceFailed
            self.error = kind(instance=self.instance)
        except MeshError as error:
            self.error = error
        except Exception:  # A bug of ours costs this download, and not those beside it.
            log.exception("bug", method="download")
            self.error = InstanceFailed(instance=self.instance)

    def end(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        for watch in self.watches:
            watch.wake()


class Watch:
    """One who watches some downloads. Whoever has it must close it, however reading ends."""

    def __init__(
        self,
        downloads: Sequence[_Download],
        *,
        finish: Callable[[], Awaitable[Model]],
        leave: Callable[[_Download], None],
    ) -> None:
        self._downloads = list(downloads)
        self._finish = finish
        self._leave = leave
        self._seen = dict.fromkeys((download.instance for download in downloads), 0)
        self._woken = asyncio.Event()
        self._over = False
        for download in downloads:
            download.watches.add(self)

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        """Watch no longer; what nobody watches any more is given up. Idempotent and synchronous."""
        for download in self._downloads:
            download.watches.discard(self)
            if not download.watches and not download.ended:
                self._leave(download)

    async def read(self) -> Told | Done | None:
        """Return what is new, then Done once the fleet shows the model, then None; raise what went wrong.

        What one instance fails at, the others may still succeed at: so they are waited for first.
        """
        while not self._over:
            self._woken.clear()
            for place, download in enumerate(self._downloads):
                if download.version > self._seen[download.instance] and download.latest is not None:
                    self._seen[download.instance] = download.version
                    self._downloads.append(self._downloads.pop(place))  # The others' turn is next.
                    return Told(download.instance, download.latest)
            if all(download.ended for download in self._downloads):
                self._over = True
                for download in sorted(self._downloads, key=lambda each: each.instance):
                    if download.error is not None:
                        raise download.error
                return Done(await self._finish())
            try:
                async with asyncio.timeout(REPEAT_AFTER_S):
                    await self._woken.wait()
            except TimeoutError:
                self._repeat()
        return None

    def _repeat(self) -> None:
        """Take what those that are under way said last for new."""
        for download in self._downloads:
            if not download.ended:
                self._seen[download.instance] = -1


class Downloads:
    """All that are under way in this process."""

    def __init__(self) -> None:
        self._live: dict[tuple[str, str], _Download] = {}  # By instance and what is fetched.
        self._tasks: asyncio.TaskGroup | None = None  # Once it runs.
        self._context = contextvars.Context()  # Of its tasks: those of a caller's hold its token.

    async def run(self) -> None:
        """Have downloads done, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks, self._context = tasks, contextvars.copy_context()
            await asyncio.Event().wait()

    def watch(self, what: str, works: Mapping[str, Work], finish: Callable[[], Awaitable[Model]]) -> Watch:
        """Have `what` fetched by the instances of `works`, or join those that fetch it already.

        Raises TooManyPulls, and then begins nothing.
        """
        for instance in works:
            count = sum(busy == instance for busy, _ in self._live)
            if (instance, what) not in self._live and count >= DOWNLOADS_MAX:
                raise TooManyPulls(instance=instance, pulls_max=DOWNLOADS_MAX)
        found = [
            self._live.get((instance, what)) or self._begun(what, instance, work)
            for instance, work in works.items()
        ]
        return Watch(found, finish=finish, leave=self._give_up)

    def _begun(self, what: str, instance: str, work: Work) -> _Download:
        assert self._tasks is not None, "it runs"
        download = self._live[instance, what] = _Download(instance, work)
        download.task = self._tasks.create_task(download.run(), context=self._context)
        # Not a `finally` in the task: cancelled before its first step, it would never get there.
        download.task.add_done_callback(lambda _: self._forget(download))
        return download

    def _give_up(self, download: _Download) -> None:
        """Who asks for it from now on begins anew, however long hanging up takes."""
        self._forget(download)
        if download.task is not None:
            download.task.cancel()

    def _forget(self, download: _Download) -> None:
        for key, live in list(self._live.items()):
            if live is download:
                del self._live[key]
        download.end()
