"""The services' code as it was one release ago, taken from git.

Which one that is: the last tag `v*`; before the first one, what was there before the newest version file was added, so
that this code knows a schema that is one version behind. Clones that have no history have no old code.
"""

import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "deploy")
VERSION_FILES = "deploy/migrations/*/versions/0*.py"


@dataclass(frozen=True, slots=True)
class Old:
    commit: str
    folder: Path  # Programs started in it run its code, with today's libraries and stubs.


class NoOldCodeError(Exception):
    """Why, in one sentence."""


def extract(into: Path) -> Old:
    """Raises NoOldCodeError."""
    commit = _commit()
    archive = into / "old.tar"
    with archive.open("wb") as file:
        subprocess.run(("git", "archive", commit, *PACKAGES), cwd=ROOT, stdout=file, check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    archive.unlink()
    return Old(commit, into)


def _commit() -> str:
    if not _git("rev-parse", "--is-inside-work-tree"):
        raise NoOldCodeError("this is no clone")
    if tag := _git("describe", "--tags", "--abbrev=0", "--match", "v*"):
        return _git("rev-parse", f"{tag}^{{commit}}")
    added = _git("log", "-1", "--diff-filter=A", "--format=%H", "--", f":(glob){VERSION_FILES}")
    before = _git("rev-parse", "--verify", "--quiet", f"{added}^") if added else ""
    if not before:
        raise NoOldCodeError("this clone has no history from before the newest version file")
    return before


def _git(*arguments: str) -> str:
    """What it prints; nothing if it fails."""
    done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
