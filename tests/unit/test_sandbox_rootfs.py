"""The root that programs see."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.sandbox import rootfs

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built under the umask of a hardened server."""
    folder = tmp_path_factory.mktemp("root") / "python"
    umask = os.umask(0o077)
    assert rootfs.build(folder)
    os.umask(umask)
    return folder


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_symlink()]


def test_any_user_can_read_it_and_none_can_write(built: Path) -> None:
    for path in (built, *entries(built)):
        mode = path.stat().st_mode
        wanted = 0o555 if path.is_dir() else 0o444
        assert mode & wanted == wanted, path
        assert mode & 0o022 == 0, path


def test_nothing_in_it_gives_rights(built: Path) -> None:
    for path in entries(built):
        assert path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID) == 0, path
        assert path.is_dir() or path.is_file(), path


def test_the_only_programs_are_the_interpreter_and_its_loader(built: Path) -> None:
    programs = {path.name for path in (built / "root/usr/bin").iterdir()}
    assert programs == {PYTHON, "python3"}
    files = (path for path in entries(built / "root") if path.is_file())
    executable = {path.name for path in files if path.stat().st_mode & 0o111}
    assert {name for name in executable if not name.startswith("ld-")} == {PYTHON}


def test_links_stay_inside(built: Path) -> None:
    root = built / "root"
    for path in root.rglob("*"):
        if path.is_symlink():
            assert not path.readlink().is_absolute(), path
            assert path.resolve().is_relative_to(root.resolve()), path


def test_its_interpreter_finds_everything_in_it(built: Path) -> None:
    """By its own loader, with no library of this machine."""
    root = built / "root"
    loader = next((root / "usr/lib").glob("ld-*"))
    check = "import ssl, sqlite3, ctypes, lzma, bz2, zlib, decimal, hashlib, asyncio; print('all')"
    command = [str(loader), "--library-path", str(root / "usr/lib"), str(root / "usr/bin" / PYTHON)]
    run = subprocess.run(
        [*command, "-I", "-S", "-c", check],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONHOME": str(root / "usr")},
    )
    assert run.stdout == "all\n", run.stderr


def test_its_modules_are_compiled(built: Path) -> None:
    library = built / "root/usr" / sys.platlibdir / PYTHON
    assert list((library / "json/__pycache__").glob("*.pyc"))


def test_building_again_changes_nothing(built: Path) -> None:
    before = built.stat().st_ino
    assert not rootfs.build(built)
    assert built.stat().st_ino == before


def test_a_stale_root_is_replaced_whole(built: Path) -> None:
    (built / "stamp").write_text("of another interpreter")
    (built / "root/stray").write_text("")
    assert rootfs.build(built)
    assert not (built / "root/stray").exists()
    assert {path.name for path in built.parent.iterdir()} == {"python", "python.lock"}


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kit: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(rootfs, "_make_kit", fail)
    monkeypatch.setattr(rootfs, "_make_root", lambda root: root.mkdir())
    with pytest.raises(OSError, match="no space left"):
        rootfs.build(tmp_path / "python")
    assert [path.name for path in tmp_path.iterdir()] == ["python.lock"]
