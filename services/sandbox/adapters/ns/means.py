"""What this machine gives the engine to build walls of, besides namespaces and filters."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.sandbox.adapters.ns import cgroups
from services.sandbox.adapters.ns.cgroups import Cgroup, Cgroups
from services.sandbox.adapters.ns.inside import kernel
from services.sandbox.adapters.ns.slots import Slots
from services.sandbox.core.limits import Limits
from services.sandbox.ports import Strength


@dataclass(frozen=True, slots=True)
class Place:
    """What one jail has of it."""

    cgroup: Cgroup
    slot: int | None


@dataclass(frozen=True, slots=True)
class Means:
    cgroups: Cgroups
    slots: Slots | None

    def place(self, jail_id: int, limits: Limits) -> Place:
        """Raises OSError. File accesses; they may take milliseconds."""
        cgroup = self.cgroups.make(jail_id, limits)
        try:
            return Place(cgroup, self.slots.borrow() if self.slots else None)
        except OSError:
            cgroup.remove()
            raise

    def take_back(self, place: Place) -> None:
        """Once nothing of its jail is left."""
        if self.slots is not None and place.slot is not None:
            self.slots.give_back(place.slot)
        place.cgroup.remove()

    def close(self) -> None:
        self.cgroups.close()

    @property
    def strength(self) -> Strength:
        controllers = self.cgroups.controllers
        weaknesses = ["The kernel is shared with the host: a hole in it is a way out."]
        if "memory" not in controllers:
            weaknesses.append(
                "Memory is measured every 20 ms instead of limited: no cgroup can be made here."
            )
        if "pids" not in controllers:
            weaknesses.append(
                "Nobody is told that a program reached its limit of processes: no cgroup can be made here."
            )
        if "cpu" not in controllers:
            weaknesses.append(
                "A program with several threads may use every processor: no cgroup can be made here."
            )
        if self.slots is None:
            weaknesses.append(
                "All programs have one uid of the host, and share what the kernel grants a user: only root may"
                " give each its own."
            )
        if kernel.landlock_abi() == 0:
            weaknesses.append("The kernel has no Landlock: file access is confined by mounts alone.")
        limited = ["process_count", "files_bytes", *(["memory_bytes"] if "memory" in controllers else [])]
        return Strength(tuple(limited), tuple(weaknesses))


def found() -> Iterator[Means]:
    """All that there is, then less and less: perhaps it is one of them that this machine refuses in the end.

    Each must be closed before the next is asked for.
    """
    slots = Slots.find()
    limiters = cgroups.find()
    yield Means(limiters, slots)
    if slots is not None and limiters.controllers:
        yield Means(cgroups.find(), None)
    if limiters.controllers:
        yield Means(Cgroups(()), slots)
    if slots is not None:
        yield Means(Cgroups(()), None)
