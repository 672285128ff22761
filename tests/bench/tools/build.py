"""Compile the measuring tools: the stub Ollama and the load generator.

`python -m tests.bench.tools.build` prints where they are. A compiler of the machine is used if there is one, otherwise
Zig's, which comes as a wheel, needs no root, and is installed beside the results when it is first asked for. What is
built is named by its sources, so it is never stale and is built once.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.support.report import RESULTS, ROOT
from tests.bench.tools.hpack_tables import header

SOURCES = Path(__file__).parent
ZIG_LOCK = SOURCES / "zig.lock"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")
PROGRAMS = {
    "stub": ("stub", "stub_reply", "stub_request", "timers", "common"),
    "load": (
        *("load", "load_options", "load_request", "load_stream", "load_channel", "load_http1", "load_http2"),
        *("load_report", "frames", "hpack", "histogram", "timers", "common"),
    ),
}
NO_COMPILER = "no C compiler: install gcc or clang, or let the wheel `ziglang` be fetched"
Compiler = tuple[str, ...]


class BuildError(Exception):
    """The sources do not compile: a bug of ours, or a compiler too old."""


def program(name: str) -> Path | None:
    """Return the compiled program, built if need be; None if nothing here can compile."""
    built = RESULTS / "bin" / f"{name}-{fingerprint(name)}"
    if built.exists():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    trouble = None
    for find in (of_the_machine, zig):
        if (compiler := find()) is not None:
            try:
                compile_with(compiler, name, built)
            except BuildError as error:  # A compiler may well be there without the C library's headers.
                trouble = error
            else:
                return built
    if trouble is not None:
        raise trouble
    return None


def fingerprint(name: str) -> str:
    """Name what the program is made of."""
    parts = [SOURCES / f"{part}.c" for part in PROGRAMS[name]] + sorted(SOURCES.glob("*.h"))
    content = b"".join(path.read_bytes() for path in parts)
    return hashlib.sha256(content + header().encode() + " ".join(FLAGS).encode()).hexdigest()[:16]


def of_the_machine() -> Compiler | None:
    """Return the compiler that is on the path, if any."""
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return (found,) if found else None


def zig() -> Compiler | None:
    """Return Zig's C compiler, installed if need be; None if it cannot be had."""
    home = RESULTS / "zig"
    python = home / "bin" / "python"
    ready = home / hashlib.sha256(ZIG_LOCK.read_bytes()).hexdigest()[:16]
    if not ready.exists():
        uv = str(ROOT / ".tools" / "bin" / "uv")
        sync = ("pip", "sync", "-q", "--require-hashes", "--only-binary", ":all:", "--python", str(python))
        try:
            _run(uv, "venv", "-q", "--allow-existing", "--python", sys.executable, str(home))
            _run(uv, *sync, str(ZIG_LOCK))
        except (OSError, BuildError) as error:
            print(f"ziglang cannot be installed: {error}", file=sys.stderr)
            return None
        ready.touch()
    return (str(python), "-m", "ziglang", "cc")


def compile_with(compiler: Compiler, name: str, built: Path) -> None:
    """Compile a program. Nobody ever sees it half written."""
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        (Path(folder) / "hpack_tables.h").write_text(header())
        sources = [str(SOURCES / f"{part}.c") for part in PROGRAMS[name]]
        output = Path(folder) / name
        _run(*compiler, *FLAGS, f"-I{folder}", "-o", str(output), *sources, "-lm")
        output.replace(built)


def _run(*arguments: str) -> None:
    # Zig would fill a folder in the home of whoever runs this.
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(RESULTS / "zig" / "cache")}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(arguments[:4])} ...: {done.stderr.strip()}")


def main() -> None:
    for name in PROGRAMS:
        print(f"{name}: {program(name) or NO_COMPILER}")


if __name__ == "__main__":
    main()
