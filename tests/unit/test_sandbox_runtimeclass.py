"""The engine `runtimeclass` is offered on a kernel of the pod's own, and nowhere else."""

import asyncio
import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.sandbox.adapters.runtimeclass import pod
from services.sandbox.adapters.runtimeclass.engine import HOSTS_KERNEL, NO_PIDFD, RuntimeClassJails
from services.sandbox.adapters.runtimeclass.pod import Kernel
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import Strength
from tests.fakes.fake_jails import FakeJails

GVISOR_LOG = b"<6>[   0.000000] Starting gVisor...\n<6>[   0.515002] Forking spaghetti code...\n"
RESTARTS = "the engine restarts"
SHARED = "The kernel is shared with the host: a hole in it is a way out."
MARKS: Mapping[str, tuple[dict[str, str], bytes, Kernel | None]] = {
    "gVisor by its image": ({"cmdline": "BOOT_IMAGE=/vmlinuz-4.4.0-gvisor quiet\n"}, b"", Kernel.GVISOR),
    "gVisor by its log": ({}, GVISOR_LOG, Kernel.GVISOR),
    "Kata by its unit": (
        {"cmdline": "console=hvc0 systemd.unit=kata-containers.target agent.log=debug\n"},
        b"",
        Kernel.KATA,
    ),
    "Kata by its share": (
        {"self/mountinfo": "230 220 0:30 /c/rootfs / rw - virtiofs kataShared rw\n"},
        b"",
        Kernel.KATA,
    ),
    "a virtual machine": (
        {"cmdline": "console=ttyS0 reboot=k panic=1 virtio_mmio.device=4K@0xd0000000:5\n"},
        b"<6>[    0.000000] Hypervisor detected: KVM\n",
        None,
    ),
    "nothing readable": ({}, b"", None),
}


@pytest.mark.parametrize("name", MARKS)
def test_a_kernel_is_known_by_marks_of_its_runtime(tmp_path: Path, name: str) -> None:
    files, kernel_log, expected = MARKS[name]
    (tmp_path / "self").mkdir()
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    assert pod.kernel(tmp_path, kernel_log) is expected


async def running(jails: RuntimeClassJails) -> "asyncio.Task[None]":
    task = asyncio.create_task(jails.run())
    await asyncio.sleep(0)
    return task


async def test_on_the_hosts_kernel_it_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod, "kernel", lambda: None)
    within = FakeJails(engine="ns")
    jails = RuntimeClassJails(within)
    with pytest.raises(SandboxUnavailable):
        await jails.take(Limits())
    task = await running(jails)
    assert jails.problem == HOSTS_KERNEL
    task.cancel()


async def test_in_a_pod_it_is_what_is_made_within(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod, "kernel", lambda: Kernel.KATA)
    within = FakeJails(engine="ns", strength=Strength(("process_count",), (SHARED, "Another.")))
    jails = RuntimeClassJails(within)
    task = await running(jails)
    assert not jails.problem
    assert (jails.engine, jails.profile) == ("runtimeclass", within.profile)
    assert jails.strength.enforced_limits == ("process_count",)
    assert "Kata" in jails.strength.weaknesses[0]
    assert jails.strength.weaknesses[1:] == ("Another.",)
    await jails.take(Limits())
    within.problem = RESTARTS
    assert str(jails.problem) == RESTARTS
    task.cancel()


async def test_a_gvisor_that_lacks_what_jails_are_made_with_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(pod, "kernel", lambda: Kernel.GVISOR)
    monkeypatch.setattr(os, "pidfd_open", missing)
    jails = RuntimeClassJails(FakeJails(engine="ns"))
    task = await running(jails)
    assert jails.problem == NO_PIDFD
    task.cancel()
