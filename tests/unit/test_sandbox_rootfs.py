"""The roots that programs see."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.settings import Settings
from services.sandbox import profiles, rootfs
from services.sandbox.rootfs import base, interpreter, packages, programs, trees, trial
from services.sandbox.rootfs.__main__ import main
from services.sandbox.rootfs.errors import RuntimeAbsentError
from services.sandbox.rootfs.recipes import OURS, TOOLS

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
REPOSITORY = Path(__file__).parents[2]
LOCK = REPOSITORY / "services/sandbox/rootfs/python-data.lock"
# Of this machine, and no other: /usr is on every one.
HOST_PATHS = {path for path in (sys.base_prefix, str(REPOSITORY)) if not path.startswith("/usr")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Roots built under the umask of a hardened server."""
    folder = tmp_path_factory.mktemp("roots")
    umask = os.umask(0o077)
    assert rootfs.build(folder / "python")
    assert rootfs.build(folder / "bash")
    os.umask(umask)
    return folder


@pytest.fixture(scope="module")
def built(made: Path) -> Path:
    return made / "python"


@pytest.fixture(scope="module", params=OURS)
def any_built(request: pytest.FixtureRequest, made: Path) -> Path:
    """Of each profile one; those that take long are what `make setup` built."""
    name: str = request.param
    if (made / name).exists():
        return made / name
    folder = Settings.from_env().cache / "sandbox" / name
    rootfs.build(folder)
    return folder


@pytest.fixture(scope="module")
def data() -> Path:
    folder = Settings.from_env().cache / "sandbox" / "python-data"
    rootfs.build(folder)
    return folder


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_symlink()]


def test_any_user_can_read_it_and_none_can_write(any_built: Path) -> None:
    for path in (any_built, *entries(any_built)):
        mode = path.stat().st_mode
        wanted = 0o555 if path.is_dir() else 0o444
        assert mode & wanted == wanted, path
        assert mode & 0o022 == 0, path


def test_nothing_in_it_tells_when_it_was_made(any_built: Path) -> None:
    assert {path.lstat().st_mtime for path in (any_built / "root").rglob("*")} == {trees.MADE_S}


def test_nothing_in_it_gives_rights(any_built: Path) -> None:
    for path in entries(any_built):
        assert path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID) == 0, path
        assert path.is_dir() or path.is_file(), path


def executable(folder: Path) -> set[str]:
    files = (path for path in entries(folder / "root") if path.is_file())
    found = {path.name for path in files if path.stat().st_mode & 0o111}
    return {name for name in found if not name.startswith("ld-")}


@pytest.mark.parametrize("profile", ["python", "python-data"])
def test_the_only_programs_are_the_interpreter_and_its_loader(made: Path, data: Path, profile: str) -> None:
    folder = data if profile == "python-data" else made / profile
    assert {path.name for path in (folder / "root/usr/bin").iterdir()} == {PYTHON, "python3"}
    assert executable(folder) == {PYTHON}


def test_links_stay_inside(any_built: Path) -> None:
    root = any_built / "root"
    for path in root.rglob("*"):
        if path.is_symlink():
            assert not path.readlink().is_absolute(), path
            assert path.resolve().is_relative_to(root.resolve()), path


def test_nothing_names_a_path_of_this_machine(any_built: Path) -> None:
    """But for programs: an interpreter has where it was built in its code."""
    for path in entries(any_built / "root"):
        if path.is_file() and path.suffix in {"", ".py", ".pyc", ".json", ".txt", ".pth", ".cfg"}:
            if path.parent.name == "bin":
                continue
            content = path.read_bytes()
            assert not [host for host in HOST_PATHS if host.encode() in content], path


def test_it_installs_nothing(any_built: Path) -> None:
    names = {path.name.partition("-")[0] for path in any_built.rglob("*.dist-info")}
    assert not names & {"pip", "uv", "setuptools", "wheel"}
    assert not list(any_built.rglob("ensurepip"))


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
    """By one that has the same bytes, for nothing in it depends on when it was made."""
    before = {path: path.read_bytes() for path in entries(built) if path.is_file()}
    (built / "stamp").unlink()
    (built / "stamp").write_text("of another interpreter")
    (built / "root/stray").write_text("")
    assert rootfs.build(built)
    after = {path: path.read_bytes() for path in entries(built) if path.is_file()}
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()
    assert not [path for path in built.parent.iterdir() if path.name.startswith(".python-")]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kit: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(base, "make_kit", fail)
    monkeypatch.setattr(base, "make_root", lambda root: root.mkdir())
    with pytest.raises(OSError, match="no space left"):
        rootfs.build(tmp_path / "python")
    assert [path.name for path in tmp_path.iterdir()] == [".python.lock"]


def test_what_roots_share_takes_room_once(data: Path) -> None:
    python = f"root/usr/bin/{PYTHON}"
    assert (data / python).stat().st_ino == (data.with_name("python") / python).stat().st_ino


class TestData:
    def test_it_has_the_packages_of_the_lock_and_says_so(self, data: Path) -> None:
        found = {package.lower() for package in profiles.read(data).packages}
        locked = LOCK.read_text().lower().replace("-", "_")
        for package in found:
            assert package.replace(" ", "==").replace("-", "_") in locked
        names = {package.split()[0] for package in found}
        assert {"numpy", "pandas", "matplotlib", "scipy", "sympy", "pillow", "openpyxl"} <= names

    def test_its_lock_names_no_place(self) -> None:
        assert "://" not in LOCK.read_text()

    def test_what_it_imports_before_a_fork_starts_no_thread(self, data: Path, scratch: Path) -> None:
        """Where nothing can be written, and no font of this machine is known."""
        profile = profiles.read(data)
        check = "".join(f"import {name}\n" for name in profile.preimported) + THREADS_AND_FONTS
        # A folder that cannot be made stands for a root that cannot be written to.
        env = {**profile.environment, "MPLCONFIGDIR": "/proc/none"}
        threads, fonts = trial.run(data / "root", check, environment=env, folder=scratch).splitlines()
        assert threads == "1"
        assert fonts == "{True}"

    @pytest.mark.parametrize(
        "module", ["scipy.stats", "sklearn.cluster", "seaborn", "sympy", "bs4", "lxml.etree"]
    )
    def test_its_libraries_are_all_there(self, data: Path, scratch: Path, module: str) -> None:
        env = {**profiles.read(data).environment, "MPLCONFIGDIR": str(scratch)}
        code = f"import {module}; print({module}.__name__)"
        assert trial.run(data / "root", code, environment=env, folder=scratch) == f"{module}\n"

    def test_its_packages_are_compiled(self, data: Path) -> None:
        folder = interpreter.packages_in(data / "root")
        assert list((folder / "pandas/__pycache__").glob("*.pyc"))


THREADS_AND_FONTS = """
import os, matplotlib.font_manager as fonts
print(len(os.listdir("/proc/self/task")))
print({font.fname.startswith(os.path.dirname(fonts.__file__)) for font in fonts.fontManager.ttflist})
"""


class TestPrograms:
    def test_a_shell_has_its_tools_and_nothing_that_needs_rights(self, made: Path) -> None:
        found = executable(made / "bash")
        assert {"bash", "cat", "sort", "sed", "grep"} <= found
        assert not found & {"su", "sudo", "mount", "umount", "passwd", "chroot", "ping", "curl", "ssh"}
        assert set(programs.present(TOOLS)) <= {path.name for path in (made / "bash/root/usr/bin").iterdir()}

    @pytest.mark.parametrize(("program", "ran"), [("bash", "3\n"), ("sed", "c\n")])
    def test_they_run_on_the_libraries_of_the_root(self, made: Path, program: str, ran: str) -> None:
        root = made / "bash/root"
        arguments = {"bash": ["-c", "echo $((1+2))"], "sed": ["s/b/c/"]}[program]
        loader = next((root / "usr/lib").glob("ld-*"))
        command = [str(loader), "--library-path", str(root / "usr/lib"), str(root / "usr/bin" / program)]
        done = subprocess.run(
            [*command, *arguments],
            check=True,
            capture_output=True,
            text=True,
            input="b\n",
            env={},
            timeout=60,
        )
        assert done.stdout == ran

    def test_the_profile_says_what_runs_the_code(self, made: Path) -> None:
        profile = profiles.read(made / "bash")
        assert profile.command == ("/usr/bin/bash",)
        assert profile.file_name == "main.sh"
        assert profile.runtime.startswith("bash ")
        assert not profile.keeps_variables

    def test_a_script_is_no_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "grep").write_text("#!/bin/sh\n")
        (tmp_path / "grep").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(RuntimeAbsentError):
            programs.find("grep")

    def test_one_program_with_many_names_is_copied_once(self, made: Path, tmp_path: Path) -> None:
        cat = programs.find("cat")
        root = tmp_path / "root"
        (root / "usr/bin").mkdir(parents=True)
        (root / "usr/lib").symlink_to(made / "python/root/usr/lib")
        programs.add({"cat": cat, "tac": cat}, root)
        assert (root / "usr/bin/tac").readlink() == Path("cat")


class TestCommand:
    def test_a_runtime_that_is_not_there_is_left_out_in_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("OLLAMESH_SANDBOX_PROFILES", "bash")
        assert main(["--into", str(tmp_path)]) == 0
        assert capsys.readouterr().err == "sandbox root bash: left out: this machine has no bash\n"
        assert not (tmp_path / "bash").exists()

    def test_what_is_asked_for_by_name_must_be_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert main(["--into", str(tmp_path), "bash"]) == 1

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["perl"], "no profile perl comes with the service"),
            (["python", "--requirements", str(LOCK)], "a lock needs one name"),
            (["../etc", "--requirements", str(LOCK)], "a lock needs one name"),
            (["mine", "--requirements", "/nowhere.lock"], "there is no file /nowhere.lock"),
        ],
    )
    def test_nonsense_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        assert main(["--into", str(tmp_path), *arguments]) == 2
        assert said in capsys.readouterr().err

    def test_a_profile_of_one_s_own_is_made_of_a_lock(self, made: Path) -> None:
        lock = made / "mine.lock"
        lock.write_text(locked("tabulate"))
        own = ["mine", "--requirements", str(lock), "--preimport", "tabulate"]
        assert main(["--into", str(made), *own]) == 0
        profile = profiles.read(made / "mine")
        assert profile.preimported == ("tabulate",)
        assert [package.split()[0] for package in profile.packages] == ["tabulate"]

    def test_one_that_cannot_import_what_it_shall_is_not_made(
        self, made: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lock = made / "wrong.lock"
        lock.write_text(locked("tabulate"))
        own = ["wrong", "--requirements", str(lock), "--preimport", "pandas"]
        assert main(["--into", str(made), *own]) == 1
        assert "No module named 'pandas'" in capsys.readouterr().err
        assert not (made / "wrong").exists()

    def test_a_package_without_its_hash_is_refused(
        self, made: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lock = made / "unhashed.lock"
        lock.write_text("tabulate\n")
        assert main(["--into", str(made), "unhashed", "--requirements", str(lock)]) == 1
        assert not (made / "unhashed").exists()

    def test_an_index_that_is_away_is_said_to_be(self) -> None:
        said = "error: Failed to fetch: `X`\n  Caused by: error sending request for url"
        assert packages.cause(said, LOCK) == "the package index does not answer"


def locked(name: str) -> str:
    """The lines of one package in the lock of python-data."""
    lines = LOCK.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{name}=="))
    end = next(number for number in range(start, len(lines)) if not lines[number].endswith("\\"))
    return "\n".join(lines[start : end + 1]) + "\n"
