"""What a starting supervisor tells the `up` that started it, one JSON object a line on its stdout."""

import os
import sys
from collections.abc import Callable

import msgspec
from msgspec import Struct

from deploy.local.process import Identity


class Progress(Struct, frozen=True, tag=True):
    part: str
    text: str


class Ready(Struct, frozen=True, tag=True):
    """All parts are up. The last message."""


class Failed(Struct, frozen=True, tag=True):
    """The last message: every part has been stopped, for this reason. When `warden` ends, nothing is left."""

    sentence: str
    warden: Identity | None


class Busy(Struct, frozen=True, tag=True):
    """The last message: another supervisor has this home."""


Message = Progress | Ready | Failed | Busy


def decode(line: bytes) -> Message:
    message: Message = msgspec.json.decode(line, type=Message)
    return message


class Sender:
    """Says nothing more after the last message. `on_lost` is called if the listener left before it."""

    def __init__(self) -> None:
        self._listened_to = True
        self.on_lost: Callable[[], None] = lambda: None

    def send(self, message: Message) -> None:
        if not self._listened_to:
            return
        try:
            sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self._hang_up()
            self.on_lost()
        else:
            if not isinstance(message, Progress):
                self._hang_up()

    def _hang_up(self) -> None:
        self._listened_to = False
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())  # Closes the pipe, which ends the listener's reading.
        os.close(nothing)
