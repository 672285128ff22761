"""The service's end of the zygote: orders go in, jails are born and reaped."""

import asyncio
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

import structlog

from services.sandbox.adapters.ns import explain, outer
from services.sandbox.adapters.ns.inside.order import (
    PACKET_BYTES_MAX,
    Born,
    Failed,
    Order,
    Ready,
    Reaped,
    pack,
    unpack,
)
from services.sandbox.adapters.ns.jail import NsJail
from services.sandbox.profiles import Profile

log = structlog.get_logger(__name__)

COMPLAINT_BYTES_MAX = 4096
KILL_AFTER_S = 2.0
START_TIMEOUT_S = 60.0  # It may have to import much, on a machine that does much else.


class Zygote:
    """One outer jail with everything in it. `gone` is done when it, and hence all, has ended."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._started: asyncio.Future[Ready | Failed] = loop.create_future()
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._control = control
        self._jails: dict[int, NsJail] = {}
        control.settimeout(0)
        loop.add_reader(control, self._hear)
        loop.add_reader(self._pidfd, self._end)

    @classmethod
    def start(cls, folder: Path, profile: Profile, first_uid: int | None) -> Self:
        """Raises OSError. Takes a few milliseconds; see outer.start for why it is not in a thread."""
        return cls(*outer.start(folder, profile, first_uid))

    async def failure(self) -> str | None:
        """Wait until it takes orders; else return why it never will."""
        await asyncio.wait(
            (self._started, self.gone), timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if self._started.done():
            said = self._started.result()
            return said.why if isinstance(said, Failed) else None
        return explain.kernel_problem() if self.gone.done() else "the zygote took too long to start"

    def order(self, order: Order, descriptors: list[int]) -> None:
        """Ask for a jail; `descriptors` are its end of its socket and its cgroups'. Raises OSError."""
        socket.send_fds(self._control, [pack(order)], descriptors)

    def adopt(self, jail: NsJail) -> None:
        """Tell `jail`, just ordered, what the zygote says about it."""
        self._jails[jail.jail_id] = jail

    async def stop(self) -> None:
        """End it and everything in it; return when that has happened."""
        self._hang_up()  # The zygote ends at that, and bubblewrap when all below it are dead.
        killing = asyncio.get_running_loop().call_later(KILL_AFTER_S, self._process.kill)
        await asyncio.shield(self.gone)
        killing.cancel()

    def _hear(self) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(
                self._control, PACKET_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            packet, descriptors = b"", []
        if not packet:
            self._hang_up()  # `_end` follows.
            return
        match unpack(packet):
            case Ready() | Failed() as said:
                self._started.set_result(said)
            case Born(jail_id):
                self._jails[jail_id].born(descriptors[0] if descriptors else None)
            case Reaped(jail_id) as usage:
                self._jails.pop(jail_id).reaped(usage)

    def _end(self) -> None:
        with suppress(BlockingIOError):
            while self._control.fileno() != -1:
                self._hear()  # What it said last has not been looked at yet.
        self._hang_up()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        log.info("zygote_ended", status=self._process.wait(), complaint=self._complaint())
        while self._jails:
            jail_id, jail = self._jails.popitem()
            jail.reaped(Reaped(jail_id, 0.0, 0))
        self.gone.set_result(None)

    def _hang_up(self) -> None:
        if self._control.fileno() != -1:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()

    def _complaint(self) -> str:
        """What bubblewrap or the interpreter said last. Not for callers."""
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        with self._process.stderr as stderr, suppress(BlockingIOError):
            return (stderr.read(COMPLAINT_BYTES_MAX) or b"").decode("utf-8", "replace")
        return ""
