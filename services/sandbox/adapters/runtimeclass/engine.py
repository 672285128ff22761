"""The engine `runtimeclass`: the service's own pod has a kernel that is not the host's, and jails are made in it.

A Kubernetes RuntimeClass gives a pod gVisor's kernel, or Kata's virtual machine. Programs are jailed in it as the
engine `ns` does, whose self-test this one has, and what escapes a jail is still not on the host. Where the kernel is
the host's, there is nothing to offer: that would be `ns` under a better name.
"""

import asyncio
import errno
import os

import structlog

from services.sandbox.adapters.runtimeclass import pod
from services.sandbox.adapters.runtimeclass.pod import Kernel
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import STARTING, Jail, Jails, SessionJail, Strength, Warm
from services.sandbox.profiles import Profile

log = structlog.get_logger(__name__)

HOSTS_KERNEL = (
    "this process runs on the host's kernel, or on one that cannot be told from it; run the service in a pod whose "
    "runtimeClassName is gVisor's or Kata's, or choose the engine gvisor or ns"
)
NO_PIDFD = (
    "this pod's gVisor lacks pidfd_open, which jails are made with; use Kata's runtime class, or the engine gvisor on "
    "the host"
)
_SHARED = "The kernel is shared with the host"  # How `ns` begins what is not so here.


class RuntimeClassJails:
    """The port `Jails`, over those of `within`, which are made in this pod."""

    engine = "runtimeclass"

    def __init__(self, within: Jails) -> None:
        self._within = within
        self._problem: str | None = STARTING
        self._kernel: Kernel | None = None

    @property
    def profile(self) -> Profile:
        return self._within.profile

    @property
    def problem(self) -> str | None:
        return self._problem or self._within.problem

    @property
    def strength(self) -> Strength:
        inner = self._within.strength
        name = "" if self._kernel is None else self._kernel.value
        weakness = (
            f"Programs share the pod's kernel ({name}) with each other and with the service: a hole in it is a way to "
            "them, and not to the host."
        )
        kept = (text for text in inner.weaknesses if not text.startswith(_SHARED))
        return Strength(inner.enforced_limits, (weakness, *kept))

    @property
    def warm(self) -> Warm:
        return self._within.warm

    async def take(self, limits: Limits) -> Jail:
        if self._problem is not None:
            raise SandboxUnavailable(problem=self._problem)
        return await self._within.take(limits)

    async def open(self, limits: Limits) -> SessionJail:
        if self._problem is not None:
            raise SandboxUnavailable(problem=self._problem)
        return await self._within.open(limits)

    async def run(self) -> None:
        self._kernel = pod.kernel()
        self._problem = _problem(self._kernel)
        if self._problem is not None:
            log.error("engine_down", engine=self.engine, profile=self.profile.name, problem=self._problem)
            await asyncio.Event().wait()  # A process stays on the kernel that it is on.
        log.info("kernel_found", engine=self.engine, kernel=self._kernel)
        await self._within.run()


def _problem(kernel: Kernel | None) -> str | None:
    if kernel is None:
        return HOSTS_KERNEL
    return None if _has_pidfd() else NO_PIDFD


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True
