"""What must go from an instance's memory for a model, and what must not."""

from collections.abc import Container
from dataclasses import dataclass

from services.inference.core.hosts import Fit, Host


@dataclass(frozen=True, slots=True)
class Room:
    """Which models must go, and whether it is sure that the new one fits then."""

    victims: tuple[str, ...]
    sure: bool


def room_on(host: Host, model: str, waited_for: Container[str]) -> Room | None:
    """Return what must go from `host` for `model`; None if it does not fit beside what is pinned there."""
    fit = host.fit([*host.residents, model])
    if fit is not Fit.NO:
        return Room((), sure=fit is Fit.YES)
    running = {run.job.model for run in host.running.values()}
    pinned = host.pinned & host.residents.keys()
    staying = sorted(
        host.residents.keys() - pinned,
        key=lambda resident: (
            resident in waited_for,
            resident in running,
            host.residents[resident].used_s,
            resident,
        ),
    )
    victims: list[str] = []
    while fit is Fit.NO:
        if not staying:
            return None
        victims.append(staying.pop(0))
        fit = host.fit([*pinned, *staying, model])
    return Room(tuple(victims), sure=fit is Fit.YES)


def staying(host: Host, waited_for: Container[str]) -> set[str]:
    """Return what no operator's wish may drive out: what is pinned, used, waited for, or on its way in."""
    coming = {host.swap.model} if host.swap is not None and host.swap.model else set()
    busy = {model for model in host.residents if model in waited_for or host.uses({model})}
    return busy | coming | (host.pinned & host.models.keys())


def has_room(host: Host, model: str, waited_for: Container[str]) -> bool:
    """Whether `model` goes beside all that stays; true as long as nobody can say that it does not."""
    beside = staying(host, waited_for) - {model}
    return host.holds(model) and host.fit([*beside, model]) is not Fit.NO
