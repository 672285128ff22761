"""The engine `runtimeclass` on real kernels: this one, and gVisor's."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.adapters.runtimeclass.engine import HOSTS_KERNEL, NO_PIDFD, RuntimeClassJails
from services.sandbox.adapters.runtimeclass.pod import Kernel, kernel
from services.sandbox.core.limits import Limits
from tests.service.sandbox_app import REPOSITORY, built_root
from tests.service.sandbox_gvisor import TIMEOUT_S, needs_runsc, runsc

ASK = """
import asyncio
from pathlib import Path
from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.adapters.runtimeclass import pod
from services.sandbox.adapters.runtimeclass.engine import RuntimeClassJails
from services.sandbox.core.limits import Limits

async def main():
    jails = RuntimeClassJails(NsJails(Path("missing"), usual=Limits(), warm_count=1))
    task = asyncio.create_task(jails.run())
    while jails.problem == "the engine is starting":
        await asyncio.sleep(0.01)
    print(pod.kernel(), jails.problem, sep="\\n")
    task.cancel()

asyncio.run(main())
"""


@pytest.mark.skipif(kernel() is not None, reason="this is a pod with a kernel of its own")
async def test_it_is_refused_on_a_hosts_kernel() -> None:
    jails = RuntimeClassJails(NsJails(built_root(), usual=Limits(), warm_count=1))
    task = asyncio.create_task(jails.run())
    async with asyncio.timeout(TIMEOUT_S):
        while jails.problem == "the engine is starting":
            await asyncio.sleep(0.01)
    assert jails.problem == HOSTS_KERNEL
    task.cancel()


@needs_runsc
@pytest.mark.skipif(os.geteuid() != 0, reason="not root, who alone can show this folder to gVisor")
def test_it_knows_gvisor_from_within_and_says_what_is_missing(tmp_path: Path) -> None:
    flags = ["--root", str(tmp_path), "--network=none", "--ignore-cgroups", "--overlay2=all:memory"]
    told = subprocess.run(
        [str(runsc()), *flags, "do", "-cwd", str(REPOSITORY), sys.executable, "-c", ASK],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    ).stdout.splitlines()
    assert told[-2:] == [str(Kernel.GVISOR), NO_PIDFD]
