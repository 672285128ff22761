"""Accelerators: which ones an operator means, and whose figures they are."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.inference.core.endpoints import Endpoint

GPUS_MAX = 64
_ALL = "all"
_NAME = re.compile(r"\d{1,3}|(?:GPU|MIG)-[0-9A-Za-z/-]{1,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An accelerator as last seen. Figures that it does not tell are 0."""

    index: int  # In the order of the PCI bus.
    uuid: str
    name: str = ""
    memory_bytes: int = 0
    memory_used_bytes: int = 0
    utilization: float = 0.0  # 0 to 1.
    temperature_celsius: float = 0.0
    power_watts: float = 0.0

    def is_called(self, name: str) -> bool:
        """Whether `name` is its index, or its identifier or the beginning of that, as CUDA has it."""
        return name == str(self.index) if name.isdecimal() else self.uuid.startswith(name)


def read_gpus(text: str, *, present_count: int) -> tuple[tuple[str, ...], str]:
    """Return the GPUs that `all`, a list, or a number by itself (a count, as Docker has it) mean; or what is wrong.

    `present_count` is 0 where it is not known.
    """
    if text == _ALL:
        return _counted(
            present_count
        ), "" if present_count else "is `all`, but no NVIDIA GPU is to be seen here"
    if text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) > 0:
        names = _counted(min(int(text), GPUS_MAX + 1))
    else:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
    return names, _mistake(names, present_count)


def gpus_of(
    instance: str, held: Mapping[str, str], gpus: Sequence[Gpu], *, alone: str = ""
) -> tuple[Gpu, ...]:
    """Return the GPUs of an instance: the one that it `held` if it is our own, all if it is `alone` here."""
    if instance in held:
        return tuple(gpu for gpu in gpus if gpu.is_called(held[instance]))
    return tuple(gpus) if instance == alone else ()


def alone_here(endpoints: Iterable[Endpoint], held: Mapping[str, str]) -> str:
    """Return the instance that has this machine to itself; empty if none has, as far as can be known."""
    here = [endpoint.name for endpoint in endpoints if endpoint.is_loopback]
    return here[0] if len(here) == 1 and not held else ""


def _counted(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _mistake(names: Iterable[str], present_count: int) -> str:
    listed = list(names)
    if not listed:
        return "names no GPU"
    for number, name in enumerate(listed, 1):
        if not _NAME.fullmatch(name):
            return f"has an entry that is neither a GPU's index nor its identifier: number {number}"
        if present_count and name.isdecimal() and int(name) >= present_count:
            return f"names a GPU that this machine lacks: number {number}"
    if len(set(listed)) < len(listed):
        return "names a GPU twice"
    return f"names more than {GPUS_MAX} GPUs" if len(listed) > GPUS_MAX else ""
