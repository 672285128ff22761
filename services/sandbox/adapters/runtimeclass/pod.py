"""Which kernel this process runs on: the host's, or one that a container runtime put between it and the host.

Only marks of the runtimes themselves count. That a machine is virtual says nothing: most hosts are, and what else runs
on one shares its kernel.
"""

import ctypes
from enum import Enum
from pathlib import Path

_READ_ALL = 3  # Of syslog(2).
_LOG_BYTES = 1 << 14
_GVISOR_BOOTS = b"Starting gVisor"
_GVISOR_IMAGE = "-gvisor"
_KATA_UNIT, _KATA_SHARE = "kata-containers", "kataShared"


class Kernel(Enum):
    GVISOR = "gVisor"
    KATA = "Kata Containers"


def kernel(proc: Path = Path("/proc"), log: bytes | None = None) -> Kernel | None:
    """None: the host's, as far as can be seen. `log` is the kernel's, for tests."""
    booted = _text(proc / "cmdline")
    if _GVISOR_IMAGE in booted or _GVISOR_BOOTS in (_log() if log is None else log):
        return Kernel.GVISOR
    if _KATA_UNIT in booted or _KATA_SHARE in _text(proc / "self/mountinfo"):
        return Kernel.KATA
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _log() -> bytes:
    """The beginning of the kernel's log; empty where it may not be read, as gVisor's always may."""
    buffer = ctypes.create_string_buffer(_LOG_BYTES)
    read_bytes: int = ctypes.CDLL(None).klogctl(_READ_ALL, buffer, len(buffer))
    return buffer.raw[: max(0, read_bytes)]
