"""Which GPUs are meant, whose they are, and what NVML says of them, where it says anything."""

import asyncio
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from services.inference.adapters import gpus as adapter
from services.inference.adapters.gpus import Gpus, count_gpus, load_nvml, read
from services.inference.core.endpoints import Endpoint, parse_endpoint
from services.inference.core.gpus import GPUS_MAX, Gpu, alone_here, gpus_of, read_gpus
from services.inference.core.ledger import InstanceView
from services.inference.hardware import Hardware

TWO = (Gpu(index=0, uuid="GPU-aa", memory_bytes=100), Gpu(index=1, uuid="GPU-bb", memory_bytes=200))


class NvmlError(Exception):
    pass


@dataclass
class FakeNvml:
    """`pynvml` on a machine with GPUs that tell everything, unless it is in `silent`."""

    names: list[str] = field(default_factory=lambda: ["H200", "H200"])
    silent: set[str] = field(default_factory=set)
    NVMLError: type[Exception] = NvmlError
    NVML_TEMPERATURE_GPU: int = 0
    opened_count: int = 0

    def _asked(self, what: str) -> None:
        if what in self.silent:
            raise NvmlError(what)

    def nvmlInit(self) -> None:
        self._asked("driver")
        self.opened_count += 1

    def nvmlShutdown(self) -> None:
        self.opened_count -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._asked("count")
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> object:
        self._asked(f"gpu {index}")
        return index

    def nvmlDeviceGetUUID(self, handle: object, /) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: object, /) -> str:
        return self.names[int(str(handle))]

    def nvmlDeviceGetMemoryInfo(self, handle: object, /) -> SimpleNamespace:
        self._asked("memory")
        return SimpleNamespace(total=1000, used=250)

    def nvmlDeviceGetUtilizationRates(self, handle: object, /) -> SimpleNamespace:
        self._asked("utilization")
        return SimpleNamespace(gpu=87)

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int, /) -> int:
        self._asked("temperature")
        return 54

    def nvmlDeviceGetPowerUsage(self, handle: object, /) -> int:
        self._asked("power")
        return 412_500


# What OLLAMA_GPUS means


@pytest.mark.parametrize(
    ("text", "present_count", "names"),
    [
        ("all", 2, ("0", "1")),
        ("2", 0, ("0", "1")),
        ("2", 8, ("0", "1")),
        ("0", 0, ("0",)),
        ("3,", 0, ("3",)),
        ("0,2", 4, ("0", "2")),
        (" GPU-5f3e-1 , GPU-77 ", 2, ("GPU-5f3e-1", "GPU-77")),
    ],
)
def test_gpus_are_all_or_a_count_or_a_list(text: str, present_count: int, names: tuple[str, ...]) -> None:
    assert read_gpus(text, present_count=present_count) == (names, "")


@pytest.mark.parametrize(
    ("text", "present_count", "why"),
    [
        ("all", 0, "no NVIDIA GPU is to be seen here"),
        ("3", 2, "a GPU that this machine lacks: number 3"),
        ("0,7", 2, "a GPU that this machine lacks: number 2"),
        ("0,first", 0, "neither a GPU's index nor its identifier: number 2"),
        ("0,0", 0, "twice"),
        (",", 0, "names no GPU"),
        ("-1", 0, "neither"),
        ("999", 0, f"more than {GPUS_MAX}"),
    ],
)
def test_what_is_wrong_is_said(text: str, present_count: int, why: str) -> None:
    assert why in read_gpus(text, present_count=present_count)[1]


# Whose they are


def test_an_owned_instance_has_the_gpu_that_it_was_given() -> None:
    held = {"one": "1", "two": "GPU-a"}
    assert gpus_of("one", held, TWO) == TWO[1:]
    assert gpus_of("two", held, TWO) == TWO[:1]
    assert gpus_of("three", held, TWO) == ()


def test_one_that_is_alone_on_this_machine_has_all() -> None:
    here, there = Endpoint(host="127.0.0.1", port=1), Endpoint(host="gpu-1", port=1)
    assert alone_here([here, there], {}) == here.name
    assert alone_here([here, there], {"owned": "0"}) == ""
    assert alone_here([here, Endpoint(host="::1", port=1)], {}) == ""
    assert alone_here([there], {}) == ""
    assert gpus_of(here.name, {}, TWO, alone=here.name) == TWO


@pytest.mark.parametrize(
    ("text", "expected"),
    [("localhost", True), ("127.0.0.2", True), ("[::1]", True), ("gpu-1", False), ("10.0.0.1", False)],
)
def test_loopback_is_this_machine(text: str, *, expected: bool) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint is not None
    assert endpoint.is_loopback is expected


def test_a_look_is_completed_by_what_this_machine_knows() -> None:
    hardware = Hardware(
        gpus=lambda: TWO,
        held={"one": "1"},
        alone="",
        vram_bytes=0,
        trouble=lambda name: "its process ended" if name == "one" else "",
    )
    seen = hardware.complete(InstanceView(name="one", unready_reason="it cannot be reached"))
    assert (seen.gpus, seen.vram_bytes, seen.unready_reason) == (TWO[1:], 200, "its process ended")
    assert hardware.complete(InstanceView(name="one")).ready, "it answers, whatever was the matter"
    other = hardware.complete(InstanceView(name="two", unready_reason="it cannot be reached"))
    assert (other.gpus, other.vram_bytes, other.unready_reason) == ((), 0, "it cannot be reached")


# What NVML says


def test_every_figure_is_read() -> None:
    assert read(FakeNvml(names=["A"])) == (
        Gpu(
            index=0,
            uuid="GPU-0",
            name="A",
            memory_bytes=1000,
            memory_used_bytes=250,
            utilization=0.87,
            temperature_celsius=54.0,
            power_watts=412.5,
        ),
    )


def test_what_is_not_told_is_left_out() -> None:
    (gpu,) = read(FakeNvml(names=["A"], silent={"memory", "utilization", "temperature", "power"}))
    assert gpu == Gpu(index=0, uuid="GPU-0", name="A")
    assert [gpu.index for gpu in read(FakeNvml(silent={"gpu 0"}))] == [1]
    assert read(FakeNvml(silent={"count"})) == ()


def test_without_library_or_driver_there_are_none() -> None:
    assert count_gpus(lambda: None) == 0
    assert count_gpus(lambda: FakeNvml(silent={"driver"})) == 0
    fake = FakeNvml()
    assert count_gpus(lambda: fake) == 2
    assert fake.opened_count == 0


def test_the_real_library_fits_and_this_machine_is_counted_without_an_error() -> None:
    nvml = load_nvml()
    assert nvml is not None
    assert issubclass(nvml.NVMLError, Exception)
    for name in (name for name in vars(FakeNvml) if name.startswith("nvml")):
        assert callable(getattr(nvml, name)), name
    assert count_gpus() >= 0


async def test_figures_are_read_again_and_again_and_closed_at_the_end() -> None:
    fake = FakeNvml()
    gpus = Gpus(every_s=0.001, load=lambda: fake)
    assert gpus.latest() == ()
    running = asyncio.create_task(gpus.run())
    async with asyncio.timeout(10):
        while len(gpus.latest()) != 2:
            await asyncio.sleep(0.001)
        fake.names.append("L4")
        while len(gpus.latest()) != 3:
            await asyncio.sleep(0.001)
        running.cancel()
        while fake.opened_count:
            await asyncio.sleep(0.001)


async def test_a_driver_that_hangs_holds_up_nothing() -> None:
    released = threading.Event()

    class Hanging(FakeNvml):
        def nvmlDeviceGetCount(self) -> int:
            released.wait(10)
            return 0

    gpus = Gpus(every_s=0.001, load=Hanging)
    running = asyncio.create_task(gpus.run())
    await asyncio.sleep(0)
    assert gpus.latest() == ()
    running.cancel()
    await asyncio.wait([running])
    released.set()


async def test_figures_that_are_not_renewed_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "FRESH_MIN_S", 0.0)
    released = threading.Event()

    class Stuck(FakeNvml):
        def nvmlDeviceGetCount(self) -> int:
            if self.names.pop() == "second":
                released.wait(10)
            return 1

    gpus = Gpus(every_s=0.02, load=lambda: Stuck(names=["first", "second", "third"]))
    running = asyncio.create_task(gpus.run())
    async with asyncio.timeout(10):
        while not gpus.latest():
            await asyncio.sleep(0.001)
        while gpus.latest():
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    released.set()
