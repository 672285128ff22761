"""Which shared libraries programs and modules need. The dynamic loader says: a machine may have no `ldd`."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from services.sandbox.rootfs.errors import CannotBuildError
from services.sandbox.rootfs.interpreter import INTERPRETER

_TIMEOUT_S = 120.0
_MISSING = re.compile(r"(\S+) => not found")
# Loads all the modules, and what glibc loads on its own at run time, and asks the loader for the paths of
# all it has. One whose libraries this machine lacks is left without them, as it is outside.
_ASK_LOADER = """
import ctypes, json, sys
for name in ["libgcc_s.so.1", "libnss_files.so.2", *json.load(sys.stdin)]:
    try:
        ctypes.CDLL(name)
    except OSError:
        pass
class Info(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]
paths = []
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Info), ctypes.c_size_t, ctypes.c_void_p)
def take(info, size, data):
    paths.append(info.contents.name.decode())
    return 0
ctypes.CDLL(None).dl_iterate_phdr(take, None)
print(json.dumps([path for path in paths if path.startswith("/")]))
"""


def of_modules(modules: Iterable[Path], *, apart_from: Sequence[Path]) -> list[Path]:
    """What the interpreter and the extension modules need, but for what lies in the folders `apart_from`."""
    command = [str(INTERPRETER), "-I", "-S", "-c", _ASK_LOADER]
    asked = json.dumps([str(module) for module in modules])
    done = subprocess.run(  # noqa: S603 -- our own.
        command, input=asked, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    paths = (Path(path) for path in json.loads(done.stdout))
    return [path for path in paths if not any(path.is_relative_to(folder) for folder in apart_from)]


def of_files(files: Iterable[Path], root: Path) -> list[Path]:
    """What programs and libraries need, without running any of them, but for what lies in `root`.

    Raises CannotBuildError if this machine lacks a library for one.
    """
    loader = str(loader_of(root))
    found: dict[Path, None] = {}
    for file in files:
        done = subprocess.run(  # noqa: S603 -- our own copy of the loader.
            [loader, "--list", str(file)], check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        if missing := _MISSING.search(done.stdout):
            raise CannotBuildError(f"{file.name} needs the library {missing[1]}, which this machine lacks")
        if done.returncode == 0:  # Else it is linked statically.
            found |= dict.fromkeys(path for path in _listed(done.stdout) if not path.is_relative_to(root))
    return list(found)


def _listed(text: str) -> Iterable[Path]:
    """`NAME => PATH (ADDRESS)`, or without the arrow for what has no name but its path."""
    for line in text.splitlines():
        path = line.rpartition("=>")[2].rpartition("(")[0].strip()
        if path.startswith("/"):
            yield Path(path)


def loader_of(root: Path) -> Path:
    """The dynamic loader in `root`."""
    return next((root / "usr/lib").glob("ld-*"))


def copy(libraries: Iterable[Path], root: Path) -> None:
    """Copy to the one folder where a loader looks, what is not there yet."""
    for path in libraries:
        if not (copied := root / "usr/lib" / path.name).exists():
            shutil.copy2(path, copied)
        if path.name.startswith("ld-"):  # A program names its loader by the whole path.
            loader = root / path.relative_to("/")
            loader.parent.mkdir(parents=True, exist_ok=True)
            if not loader.exists():
                shutil.copy2(path, loader)
