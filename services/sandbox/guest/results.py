"""Tells results to the service, in the frames of core/results.py, on a descriptor of their own.

What is too large is left out, and never a reason for the program to fail. Only the process that was given the
descriptor tells: frames of its children would run into each other.
"""

import os
import re
import signal
import stat
import struct
import threading
from collections.abc import Mapping

FORM_BYTES_MAX = 2 << 20
FRAME_BYTES_MAX = 3 << 20  # What the service passes on at most of one result.
FORM_COUNT_MAX = 16

_SIZE = struct.Struct(">I")
_MIME = re.compile(r"[a-z]+/[a-zA-Z0-9][a-zA-Z0-9.+_-]{0,200}")

Forms = Mapping[str, bytes]


class Results:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor = self._pid = -1
        self._pipe = (0, 0)

    def open(self, descriptor: int) -> None:
        """From now on they are told there."""
        self._pipe = _identity(descriptor)
        self._descriptor, self._pid = descriptor, os.getpid()

    def close(self) -> None:
        """From now on they are not told."""
        self._pid = -1

    def tell(self, forms: Forms) -> None:
        """Tell one result, in those of its `forms` that can be told."""
        if self._pid != os.getpid() or not (frame := encode(forms)):
            return
        with self._lock:
            # A handler that raises between two writes would leave half a frame, and none could be read after it.
            masked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._write(frame)
            except OSError:
                self._pid = -1  # The program has closed it.
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)

    def _write(self, frame: bytes) -> None:
        if _identity(self._descriptor) != self._pipe:
            raise OSError  # The number is of another file now, and that is the program's.
        rest = memoryview(frame)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def encode(forms: Forms) -> bytes:
    """Return the frame; empty if no form can be told."""
    body = bytearray()
    for mime, data in list(forms.items())[:FORM_COUNT_MAX]:
        size_bytes = 1 + len(mime) + _SIZE.size + len(data)
        if (
            len(data) <= FORM_BYTES_MAX
            and len(body) + size_bytes <= FRAME_BYTES_MAX
            and _MIME.fullmatch(mime)
        ):
            body += bytes([len(mime)]) + mime.encode() + _SIZE.pack(len(data)) + data
    return _SIZE.pack(len(body)) + body if body else b""


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    if not stat.S_ISFIFO(status.st_mode):
        raise OSError
    return status.st_dev, status.st_ino
