"""Programs from the packages of this machine's own Debian, without root and without installing anything.

apt downloads with lists of its own, from the repositories that the machine is set up for, and checks what it got; dpkg
unpacks; a program comes to its place by a rename, after it has been seen to start. So what is there is whole.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TIMEOUT_S = 300
_LACKING = re.compile(r"error while loading shared libraries: (\S+?):")


@dataclass(frozen=True, slots=True)
class Program:
    package: str
    path: str
    """Inside the package."""
    version_min: str = "0"


class Unobtainable(Exception):
    """Why there is none to be had, as a sentence without a subject."""


def obtain(wanted: Mapping[Path, Program]) -> None:
    """Put each program at its place, whatever is there. Raises Unobtainable; those placed before it stay."""
    for program in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(program) is None:
            raise Unobtainable("this machine has no Debian packages")
    with tempfile.TemporaryDirectory(prefix="ollamesh-debian-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # apt downloads as a user of its own.
        try:
            _obtain(wanted, _Apt(folder))
        except (OSError, subprocess.SubprocessError) as error:
            packages = ", ".join(sorted({program.package for program in wanted.values()}))
            message = f"this machine's package manager cannot get {packages} ({type(error).__name__})"
            raise Unobtainable(message) from error


def _obtain(wanted: Mapping[Path, Program], apt: "_Apt") -> None:
    apt.update()
    unpacked: dict[str, Path] = {}
    for target, program in wanted.items():
        if program.package not in unpacked:
            unpacked[program.package] = apt.unpack(program.package, program.version_min)
        _place(unpacked[program.package] / program.path, target)


def _place(source: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".fresh-", dir=_made(target.parent)) as fresh:
        copy = Path(fresh) / target.name
        shutil.copy2(source, copy)
        tried = subprocess.run(
            [copy, "--version"], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if lacking := _LACKING.search(tried.stderr):
            message = f"Debian's {target.name} needs the library {lacking[1]}, which this machine lacks"
            raise Unobtainable(message)
        if tried.returncode != 0:
            raise Unobtainable(f"Debian's {target.name} does not start on this machine")
        copy.replace(target)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Apt:
    """apt and dpkg for one folder alone, with the machine's own repositories and their backports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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

    def unpack(self, package: str, version_min: str) -> Path:
        self._run("apt-get", "-q", "download", f"{package}={self._newest(package, version_min)}")
        (archive,) = self._folder.glob(f"{package}_*.deb")
        self._run("dpkg", "-x", archive.name, package)
        return self._folder / package

    def _newest(self, package: str, version_min: str) -> str:
        answer = self._run("apt-cache", "madison", package)
        versions = [line.split("|")[1].strip() for line in answer.splitlines() if line.count("|") == 2]
        for version in versions:  # Newest first.
            fits = subprocess.run(
                ["dpkg", "--compare-versions", version, "ge", version_min], check=False, timeout=TIMEOUT_S
            )
            if fits.returncode == 0:
                return version
        raise Unobtainable(
            f"this machine's Debian has no {package} that is recent enough, or cannot be reached"
        )

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
