"""The interpreter that every jail is a copy of.

It runs inside the outer jail, imports once what programs are likely to use, and clones itself on
demand. It never runs untrusted code, holds no secret, and has one thread, because a fork copies only
the calling one. If the service goes away it ends, and with it, being process 1, all of its children.
"""

import gc
import importlib
import json
import os
import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from services.sandbox.guest.command import Command
from services.sandbox.guest.interpreter import Interpreter

from . import filters, jail, kernel
from .order import PACKET_BYTES_MAX, Born, Failed, Order, Ready, Reaped, pack, unpack
from .running import Runner

# What short programs import most, and what the rest of the library imports in turn.
PREIMPORTED = (
    *("base64", "bisect", "collections", "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal"),
    *("encodings.idna", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools"),
    *("json", "math", "operator", "os", "pathlib", "pprint", "random", "re", "shutil", "statistics"),
    *("string", "struct", "subprocess", "sys", "tempfile", "textwrap", "threading", "time", "types"),
    *("typing", "urllib.parse", "uuid", "zoneinfo"),
)
ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/work", "LANG": "C.UTF-8", "TZ": "UTC", "TMPDIR": "/tmp"}  # noqa: S108 -- the jail's own.
DESCRIPTORS_MAX = 8


def main() -> None:
    """`python jail.zip DESCRIPTOR PROFILE`: the socket to the service, and what the profile adds, as JSON."""
    service = socket.socket(fileno=int(sys.argv[1]))
    profile = json.loads(sys.argv[2])
    environment = {**ENVIRONMENT, **profile["environment"]}
    os.environ.update(environment)  # Libraries read some of it when they are imported.
    _import(service, profile["preimported"])
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = [profile["file_name"]]
    del sys.path[0]  # Where this very code lies.
    for name in [name for name in sys.modules if name.partition(".")[0] == "services"]:
        del sys.modules[name]  # All of it is imported, and a program may have something of that name.
    gc.collect()
    gc.freeze()  # Else the first collection in each child would copy all these pages.
    kernel.gather_memory()
    kernel.no_new_privileges()
    kernel.install_filter(filters.zygote(os.uname().machine))
    service.send(pack(Ready()))
    _serve(service, _runner_of(profile))
    os._exit(0)


def _import(service: socket.socket, added: list[str]) -> None:
    for name in (*PREIMPORTED, *added):
        try:
            importlib.import_module(name)
        except BaseException as error:
            service.send(pack(Failed(f"{name} cannot be imported: {type(error).__name__}")))
            raise
        if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 -- as plain as its neighbours.
            service.send(
                pack(Failed(f"{name} starts a thread when it is imported, which no copy would have"))
            )
            os._exit(1)


def _runner_of(profile: dict[str, Any]) -> Callable[[], Runner]:
    if profile["command"]:
        return partial(Command, profile["command"], profile["file_name"])
    return partial(Interpreter, profile["file_name"])


def _serve(service: socket.socket, runner_made: Callable[[], Runner]) -> None:
    living: dict[int, tuple[int, int]] = {}  # pidfd to pid and jail.
    events = select.poll()
    events.register(service, select.POLLIN)
    while True:
        for descriptor, _ in events.poll():
            if descriptor != service.fileno():
                service.send(pack(_reap(*living.pop(descriptor))))
                events.unregister(descriptor)
                os.close(descriptor)
                continue
            if (received := _receive(service)) is None:
                return
            order, descriptors = received
            if (made := _made(service, order, descriptors, runner_made)) is None:
                service.send(pack(Reaped(order.jail_id, 0.0, 0)))
                continue
            pidfd, pid = made
            living[pidfd] = pid, order.jail_id
            events.register(pidfd, select.POLLIN)
            socket.send_fds(service, [pack(Born(order.jail_id))], [pidfd])


def _receive(service: socket.socket) -> tuple[Order, list[int]] | None:
    """One order, with its descriptors; None if the service is gone."""
    try:
        packet, descriptors, _, _ = socket.recv_fds(service, PACKET_BYTES_MAX, DESCRIPTORS_MAX)
    except ConnectionResetError:  # Gone with something of ours unread.
        return None
    if not packet:
        return None
    order = unpack(packet)
    assert isinstance(order, Order)
    return order, descriptors


def _made(
    service: socket.socket, order: Order, descriptors: list[int], runner_made: Callable[[], Runner]
) -> tuple[int, int] | None:
    """Carry out one order. Return pidfd and pid; None if the kernel refuses, which must not cost the other jails
    anything: perhaps they have all the processes that there may be.
    """
    held = list(descriptors)
    try:
        held += (pipe := os.pipe())
        pid, pidfd = _clone(service, order, descriptors, pipe, runner_made)
    except OSError as error:
        with suppress(OSError):
            os.write(descriptors[0], pack(Failed(repr(error))))
        return None
    finally:
        for descriptor in held:  # The child waits for the end of the pipe.
            os.close(descriptor)
    return pidfd, pid


def _clone(
    service: socket.socket,
    order: Order,
    descriptors: list[int],
    pipe: tuple[int, int],
    runner_made: Callable[[], Runner],
) -> tuple[int, int]:
    waiting, mapped = pipe
    pid, pidfd = kernel.clone(jail.NAMESPACES)
    if pid == 0:
        service.detach()  # Its number is about to be used again.
        os.close(mapped)
        jail.inhabit(order, descriptors[0], descriptors[1:], waiting, runner_made)
    if order.slot is not None:
        _map(pid, order.slot)
    return pid, pidfd


def _map(pid: int, slot: int) -> None:
    """Give `pid`, in its user namespace, a uid that no other jail has. It cannot do that itself."""
    with suppress(OSError):  # It may have been killed; else it finds out.
        jail.write(f"/proc/{pid}/setgroups", "deny")
        for name in ("uid_map", "gid_map"):
            jail.write(f"/proc/{pid}/{name}", f"{jail.UID} {jail.FIRST_SLOT_UID + slot} 1")


def _reap(pid: int, jail_id: int) -> Reaped:
    """The init's usage holds that of all it waited for, and dying it waits for the whole jail."""
    _, _, usage = os.wait4(pid, 0)
    return Reaped(jail_id, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
