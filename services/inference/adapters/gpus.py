"""GPU figures from NVML, where there is a driver; none anywhere else.

NVML's calls block, for seconds if a GPU is in trouble. So a thread of its own asks, and what it last heard is
there to be read. It is a daemon: should it never come back, the process still ends.
"""

# ruff: noqa: N802 - NVML's own names.

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol, TypeVar

import structlog

from services.inference.core.gpus import Gpu

log = structlog.get_logger(__name__)

FRESH_MIN_S = 10.0  # Older figures are not shown, unless they are asked for more rarely than that.
FRESH_SAMPLES = 3

T = TypeVar("T")


class Memory(Protocol):
    @property
    def total(self) -> int: ...
    @property
    def used(self) -> int: ...


class Rates(Protocol):
    @property
    def gpu(self) -> int: ...


class Nvml(Protocol):
    """What is used of `pynvml`."""

    NVMLError: type[Exception]
    NVML_TEMPERATURE_GPU: int

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> object: ...
    def nvmlDeviceGetUUID(self, handle: object, /) -> str: ...
    def nvmlDeviceGetName(self, handle: object, /) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: object, /) -> Memory: ...
    def nvmlDeviceGetUtilizationRates(self, handle: object, /) -> Rates: ...
    def nvmlDeviceGetTemperature(self, handle: object, sensor: int, /) -> int: ...
    def nvmlDeviceGetPowerUsage(self, handle: object, /) -> int: ...


def load_nvml() -> Nvml | None:
    """Return the library's bindings, if they are installed."""
    try:
        import pynvml
    except ImportError:
        return None
    found: Nvml = pynvml
    return found


def count_gpus(load: Callable[[], Nvml | None] = load_nvml) -> int:
    """Return how many GPUs there are; 0 without a driver."""
    with _opened(load()) as nvml:
        return 0 if nvml is None else nvml.nvmlDeviceGetCount()


class Gpus:
    """What the GPUs of this machine last said."""

    def __init__(self, *, every_s: float, load: Callable[[], Nvml | None] = load_nvml) -> None:
        self._every_s = every_s
        self._load = load
        self._seen: tuple[Gpu, ...] = ()
        self.count_max = 0  # That were ever seen.
        self._seen_at_s = float("-inf")

    def latest(self) -> tuple[Gpu, ...]:
        """Return them in order; none if there are none, or if they have not answered of late."""
        age_s = asyncio.get_running_loop().time() - self._seen_at_s
        return self._seen if age_s <= max(FRESH_MIN_S, FRESH_SAMPLES * self._every_s) else ()

    async def run(self) -> None:
        """Keep asking until cancelled."""
        stopped = threading.Event()
        asking = threading.Thread(
            target=self._ask, args=(asyncio.get_running_loop(), stopped), name="gpus", daemon=True
        )
        asking.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            stopped.set()  # Not joined: it may be waiting for the driver.

    def _ask(self, loop: asyncio.AbstractEventLoop, stopped: threading.Event) -> None:
        with _opened(self._load()) as nvml:
            while nvml is not None and not stopped.is_set():
                seen = read(nvml)
                with suppress(RuntimeError):  # The loop may be closed by now.
                    loop.call_soon_threadsafe(self._take, seen)
                stopped.wait(self._every_s)

    def _take(self, seen: tuple[Gpu, ...]) -> None:
        self._seen = seen
        self.count_max = max(self.count_max, len(seen))
        self._seen_at_s = asyncio.get_running_loop().time()


def read(nvml: Nvml) -> tuple[Gpu, ...]:
    """Ask each GPU once. What one of them does not tell is left out."""
    count = _told(nvml, nvml.nvmlDeviceGetCount, 0)
    found = [_told(nvml, partial(_gpu, nvml, index), None) for index in range(count)]
    return tuple(gpu for gpu in found if gpu is not None)


def _gpu(nvml: Nvml, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _told(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle), None)
    percent = _told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 0)
    celsius = _told(nvml, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU), 0)
    milliwatts = _told(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle), 0)
    return Gpu(
        index=index,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        memory_bytes=memory.total if memory is not None else 0,
        memory_used_bytes=memory.used if memory is not None else 0,
        utilization=percent / 100,
        temperature_celsius=float(celsius),
        power_watts=milliwatts / 1000,
    )


def _told(nvml: Nvml, ask: Callable[[], T], otherwise: T) -> T:
    try:
        return ask()
    except nvml.NVMLError:
        return otherwise


@contextmanager
def _opened(nvml: Nvml | None) -> Iterator[Nvml | None]:
    """Yield the library when it is ready; None, and one line in the log, where it cannot be."""
    if nvml is None:
        log.debug("no_gpu_figures", reason="pynvml is not installed")
        yield None
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.debug("no_gpu_figures", reason=str(error))
        yield None
        return
    try:
        yield nvml
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
