"""`python -m tools.gvisor FILE`: put gVisor's runsc at FILE, from the packages of this machine's own Debian.

No root is needed, and nothing is installed: apt downloads with lists of its own, from the repository that the machine is
set up for, and dpkg unpacks. Debian 12's own runsc is too old, that of its backports is not. Where there is none, gVisor is installed as its
authors say.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PACKAGE = "runsc"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TIMEOUT_S = 300
# systrap, the platform that is used, came in 2023; Debian's versions are dates.
VERSION_MIN = "0.0~20231001"


class Unobtainable(Exception):
    """Why there is none to be had, as a sentence without a subject."""


def main() -> None:
    target = Path(sys.argv[1])
    if target.exists():
        print(f"gvisor: {target} is there")
        return
    try:
        obtain(target)
    except Unobtainable as error:
        sys.exit(
            f"gvisor: {error}; install gVisor as its authors say, and name runsc in OLLAMESH_SANDBOX_RUNSC"
        )
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"gvisor: this machine's package manager cannot get {PACKAGE} ({type(error).__name__})")
    print(f"gvisor: {target} is there; name it in OLLAMESH_SANDBOX_RUNSC")


def obtain(target: Path) -> None:
    """Raises Unobtainable, OSError or SubprocessError."""
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise Unobtainable("this machine has no Debian packages")
    with tempfile.TemporaryDirectory(prefix="ollamesh-runsc-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # apt downloads as a user of its own.
        config = _configured(folder)
        with suppress(subprocess.CalledProcessError):  # Not every release has backports.
            _run(folder, config, "apt-get", "-q", "update")
        _run(folder, config, "apt-get", "-q", "download", f"{PACKAGE}={_newest(folder, config)}")
        (package,) = folder.glob(f"{PACKAGE}_*.deb")
        _run(folder, config, "dpkg", "-x", package.name, "unpacked")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}-fresh")
        shutil.copy2(folder / "unpacked/usr/bin/runsc", fresh)
        fresh.replace(target)


def _configured(folder: Path) -> Path:
    """A configuration of apt for `folder` alone, with the machine's own repositories and their backports."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text("".join(f"{line}\n" for line in _sources()))
    config = folder / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{folder}/lists";\nDir::Cache "{folder}/cache";\nAcquire::Languages "none";\n'
        'APT::Sandbox::User "";\n'
    )
    return config


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


def _newest(folder: Path, config: Path) -> str:
    answer = _run(folder, config, "apt-cache", "madison", PACKAGE)
    versions = [line.split("|")[1].strip() for line in answer.splitlines() if line.count("|") == 2]
    for version in versions:  # Newest first.
        fits = subprocess.run(["dpkg", "--compare-versions", version, "ge", VERSION_MIN], check=False)
        if fits.returncode == 0:
            return version
    raise Unobtainable(f"this machine's Debian has no {PACKAGE} that is recent enough, or cannot be reached")


def _run(folder: Path, config: Path, *command: str) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=folder,
        env={"APT_CONFIG": str(config), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    ).stdout


if __name__ == "__main__":
    main()
