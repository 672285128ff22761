"""The stub Ollama, run beside a benchmark or a test."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from services.common.launch import Guard
from tests.bench.support.report import ROOT
from tests.bench.tools import build
from tests.bench.tools import stub as python_stub

C, PYTHON = "C", "Python"
# Measured with load.c beside it on two cores that had other work, at a load average of 10.
C_LIMIT = (
    "the stub in C held 400 streams of 50 tokens/s (p99 between tokens 24 ms) on two busy cores, takes 6 to 14 us of "
    "processor a token, and sends 1 to 5 million tokens/s flat out"
)


class StubError(Exception):
    """The stub did not start, for the reasons that it gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    port: int
    pid: int
    kind: str
    limit: str  # What it can do, in a sentence: a figure beyond that is the stub's and nobody else's.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def stub(*models: str, pure_python: bool = False) -> Iterator[Stub]:
    """A stub that lists `models`, listening until the block ends: the one in C, if it can be built and none other is
    asked for.
    """
    built = None if pure_python else build.program("stub")
    argv = [str(built)] if built else [sys.executable, "-m", "tests.bench.tools.stub"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            Guard().command([*argv, "0", *models]),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield Stub(
                port=_port(process, argv, errors),
                pid=process.pid,
                kind=C if built else PYTHON,
                limit=C_LIMIT if built else python_stub.LIMIT,
            )
        finally:
            process.terminate()
            process.communicate()


def _port(process: subprocess.Popen[str], argv: Sequence[str], errors: IO[bytes]) -> int:
    """Wait until it listens: it says so, or ends."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        errors.seek(0)
        raise StubError(f"{argv[-1]}: {errors.read().decode(errors='replace').strip()}")
    return int(line.rpartition(":")[2])
