"""Replaces the running stack's Envoy, or its configuration, without losing a call: deploy/envoy/serve.py does it."""

import signal
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from deploy.local import board
from deploy.local.errors import StackError
from deploy.local.process import is_alive, send

WITHIN_S = 90.0  # Rendering, judging, and starting.
POLL_S = 0.1


class ReloadState(Struct, frozen=True):
    """What serve.py says."""

    reload_count: int
    error: str
    draining_pid: int | None


class EdgeNotThereError(StackError):
    def __init__(self) -> None:
        super().__init__("the edge does not run; start the stack with `make up`")


class ReloadRefusedError(StackError):
    def __init__(self, why: str) -> None:
        super().__init__(f"the edge goes on as it was: {why}")


class StillDrainingError(StackError):
    def __init__(self) -> None:
        super().__init__(
            "callers are still connected to the edge from before the last reload; "
            "this one is done when they have gone, or OLLAMESH_EDGE_DRAIN_S are over"
        )


def reload(home: Path) -> None:
    """Return when the new edge serves. Raises StackError."""
    running = board.of_running(home)
    parts = {part.name: part for part in running.parts} if running is not None else {}
    if "edge" not in parts or (process := parts["edge"].process) is None:
        raise EdgeNotThereError
    before = _state(home)
    send(process, signal.SIGHUP)
    end_s = time.monotonic() + WITHIN_S
    while (now := _state(home)).reload_count == before.reload_count:
        if not is_alive(process):
            raise EdgeNotThereError
        if time.monotonic() > end_s:
            if now.draining_pid is not None:
                raise StillDrainingError
            raise ReloadRefusedError(f"there was no answer within {WITHIN_S:g} s")
        time.sleep(POLL_S)
    if now.error:
        raise ReloadRefusedError(now.error)


def _state(home: Path) -> ReloadState:
    try:
        return msgspec.json.decode((home / "envoy.state").read_bytes(), type=ReloadState)
    except (OSError, msgspec.MsgspecError) as error:
        raise EdgeNotThereError from error
