"""Programs from the packages of this machine's own Debian, without root and without installing anything.

apt downloads with lists of its own, from the repositories that the machine is set up for, and checks what it got; dpkg
unpacks; a program comes to its place by a rename, after it has been seen to start. So what is there is whole.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TIMEOUT_S = 300
DATA_BYTES_MAX = 2 << 20
_LACKING = re.compile(r"error while loading shared libraries: (\S+?):")


@dataclass(frozen=True, slots=True)
class Program:
    package: str
    path: str
    """Inside the package; of a folder, if it is data."""
    version_min: str = ""
    is_data: bool = (
        False  # It is not started to see whether it can be, and not missed if the package has it no more.
    )
    edit: tuple[bytes, bytes] | None = None
    """What is replaced in it, and by what, of the same length: a path where nobody but root can put anything."""

    needs: tuple[str, ...] = ()
    """Packages of what it links to. It is without those that there are not."""

    def __post_init__(self) -> None:
        assert self.edit is None or len(self.edit[0]) == len(self.edit[1])


class Unobtainable(Exception):
    """Why there is none to be had, as a sentence without a subject."""


def obtain(wanted: Mapping[Path, Program]) -> None:
    """Put each program at its place, whatever is there. Raises Unobtainable; those placed before it stay."""
    with _apt({program.package for program in wanted.values()}) as apt:
        _obtain(wanted, apt)


def unpack(packages: Sequence[str], target: Path) -> None:
    """Lay the files of packages out in `target`, as they would lie in `/`, all or none of them. Raises Unobtainable.

    For programs that bring more than themselves. What they need of other packages has to be named, too.
    """
    with _apt(packages) as apt:
        apt.update()
        apt.unpack(dict.fromkeys(packages, "0"), wished=())
        fresh = target.with_name(f".{target.name}.fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(apt.root, _made(fresh.parent) / fresh.name, symlinks=True)
        shutil.rmtree(target, ignore_errors=True)
        fresh.replace(target)


@contextmanager
def _apt(packages: Iterable[str]) -> Iterator["_Apt"]:
    for program in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(program) is None:
            raise Unobtainable("this machine has no Debian packages")
    with tempfile.TemporaryDirectory(prefix="ollamesh-debian-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # apt downloads as a user of its own.
        try:
            yield _Apt(folder)
        except (OSError, subprocess.SubprocessError) as error:
            names = ", ".join(sorted(packages))
            message = f"this machine's package manager cannot get {names} ({type(error).__name__})"
            raise Unobtainable(message) from error


def _obtain(wanted: Mapping[Path, Program], apt: "_Apt") -> None:
    apt.update()
    apt.unpack(
        {program.package: program.version_min for program in wanted.values()},
        wished=dict.fromkeys(name for program in wanted.values() for name in program.needs),
    )
    for target, program in wanted.items():
        if (apt.root / program.path).exists() or not program.is_data:
            _place(apt.root, target, program)


def _place(root: Path, target: Path, program: Program) -> None:
    source = root / program.path
    with tempfile.TemporaryDirectory(prefix=".fresh-", dir=_made(target.parent)) as fresh:
        copy = Path(fresh) / target.name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=partial(_left_out, root))
        else:
            shutil.copy2(source, copy)
        if program.edit is not None:
            copy.write_bytes(copy.read_bytes().replace(*program.edit))
        if not program.is_data:
            _try(copy)
        copy.replace(target)


def _left_out(root: Path, folder: str, names: list[str]) -> list[str]:
    """Links to what was not unpacked, and files too large for what programs read as they go."""
    return [name for name in names if not _belongs(root, Path(folder) / name)]


def _belongs(root: Path, path: Path) -> bool:
    real = path.resolve()
    return real.is_relative_to(root.resolve()) and real.exists() and real.stat().st_size <= DATA_BYTES_MAX


def _try(program: Path) -> None:
    tried = subprocess.run(
        [program, "--version"], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    if lacking := _LACKING.search(tried.stderr):
        message = f"Debian's {program.name} needs the library {lacking[1]}, which this machine lacks"
        raise Unobtainable(message)
    if tried.returncode != 0:
        raise Unobtainable(f"Debian's {program.name} does not start on this machine")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Apt:
    """apt and dpkg for one folder alone, with the machine's own repositories and their backports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder / "unpacked"  # One for all, for packages link to each other.
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "-";\n'
            f'Dir::State::lists "{folder}/lists";\nDir::Cache "{folder}/cache";\nAcquire::Languages "none";\n'
            'APT::Sandbox::User "";\n'
        )

    def update(self) -> None:
        (self._folder / "sources.list").write_text("".join(f"{line}\n" for line in _sources()))
        with suppress(subprocess.CalledProcessError):  # Not every release has backports.
            self._run("apt-get", "-q", "update")

    def unpack(self, needed: Mapping[str, str], *, wished: Iterable[str]) -> None:
        """The newest of each package; `needed` with the oldest version that will do. Raises Unobtainable."""
        listed = self._versions((*needed, *wished))
        chosen = {name: versions[0] for name, versions in listed.items()}
        for name, version_min in needed.items():
            if (
                version := next((each for each in listed.get(name, ()) if _fits(each, version_min)), None)
            ) is None:
                raise Unobtainable(
                    f"this machine's Debian has no {name} that is recent enough, or cannot be reached"
                )
            chosen[name] = version
        self._run("apt-get", "-q", "download", *(f"{name}={version}" for name, version in chosen.items()))
        for archive in self._folder.glob("*.deb"):
            self._run("dpkg", "-x", archive.name, str(self.root))

    def _versions(self, packages: Iterable[str]) -> Mapping[str, list[str]]:
        """Of each package that there is, the newest first."""
        listed: dict[str, list[str]] = {}
        for line in self._run("apt-cache", "madison", *packages).splitlines():
            name, version, _ = (field.strip() for field in line.split("|"))
            listed.setdefault(name, []).append(version)
        return listed

    def _run(self, *command: str) -> str:
        path = "/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=self._folder,
            env={"APT_CONFIG": str(self._folder / "apt.conf"), "PATH": path, "LC_ALL": "C"},
        ).stdout


def _fits(version: str, version_min: str) -> bool:
    command = ("dpkg", "--compare-versions", version, "ge", version_min)
    return not version_min or subprocess.run(command, check=False, timeout=TIMEOUT_S).returncode == 0


def _sources() -> Iterator[str]:
    # A target is a kind of list in one component of one release of one repository.
    command = ("apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)")
    listed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S).stdout
    targets = {tuple(line.split("|")) for line in listed.splitlines()}
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    found = False
    for place, release, component, origin in sorted(targets):
        if component == "main" and origin == "Debian" and "-" not in release:
            found = True
            yield f"deb {signed}{place} {release} main"
            yield f"deb {signed}{place} {release}-backports main"
    if not found:
        raise Unobtainable("this machine has no repository of Debian's, or needs 'apt-get update' once")
