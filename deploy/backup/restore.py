"""Brings a database back as it was at some time: a base backup, and the log behind it, replayed by PostgreSQL itself.

Everything happens in a folder aside, which becomes the data directory when PostgreSQL says that it is there. What lay
in its place is moved aside, never removed. Nothing is done to a stack that runs.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deploy.backup import contents, core, verify
from deploy.backup.config import Config
from deploy.backup.core import Segment
from deploy.backup.errors import BackupError, DamagedError
from deploy.backup.repository import BASE, PARTIAL, SEALED, SECRETS, Backup, Repository
from deploy.backup.sealing import Reader, opened
from deploy.local import postgres
from deploy.local.ports import free_ports
from services.common.launch import Guard, server_uid

STAGED = "ollamesh_wal"  # Within the data directory, the only place that the server's uid can reach.
REPLAY_S_MAX = 6 * 3600.0
POLL_S = 0.05
RUNNING = "in production"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    data: Path  # PostgreSQL's data directory.
    secrets: Path | None  # Where the secrets go, if at all.
    until: str = ""  # A time (ISO 8601) or a place in the log (LSN); empty: as late as there is.
    replace: bool = False  # What is there may be moved aside.
    up_to_gap: bool = False  # Segments are missing, and what is before them is better than nothing.

    def setting(self) -> tuple[str, ...]:
        """Raises BackupError."""
        if not self.until:
            return ()
        with contextlib.suppress(ValueError):
            core.position(self.until)
            return ("-c", f"recovery_target_lsn={self.until}")
        try:
            moment = datetime.fromisoformat(self.until)
        except ValueError:
            raise BackupError(
                "--until is a time such as 2026-11-30T12:00:00Z, or a place such as 0/3000060"
            ) from None
        if moment.tzinfo is None:
            raise BackupError("--until needs a time zone, such as the Z in 2026-11-30T12:00:00Z")
        return ("-c", f"recovery_target_time={moment.isoformat()}")


def restore(config: Config, backup_id: str, target: Target) -> Backup:
    """Return when the data directory is whole, consistent and free. Raises BackupError and changes nothing."""
    repository = Repository.open(config.folder, config.passphrase)
    backup = repository.backup(backup_id) if backup_id else repository.newest()
    setting = target.setting()
    _refuse_what_is_there(target)
    verify.check_digests(repository, backup)
    segments = _segments(repository, backup, up_to_gap=target.up_to_gap)
    unfinished = _aside(target.data)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(mode=0o700, parents=True)
        _unpack(repository, backup, unfinished)
        _verify_unpacked(config, unfinished)
        _stage(repository, segments, unfinished)
        _give_to_server(unfinished)
        _replay(config, unfinished, setting)
        shutil.rmtree(unfinished / STAGED)
        secrets = _unsealed_secrets(repository, backup, target)
        _move_in(unfinished, target.data)
        if secrets is not None and target.secrets is not None:
            _move_in(secrets, target.secrets)
    except OSError as error:
        raise BackupError(f"nothing was restored: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if target.secrets is not None:
            shutil.rmtree(_aside(target.secrets), ignore_errors=True)  # They are in plain.
    return backup


def _refuse_what_is_there(target: Target) -> None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int((target.data / "postmaster.pid").read_text().split("\n", 1)[0])
        if postgres.serves(pid, target.data):
            raise BackupError("PostgreSQL is running on these data: stop the stack first (`make down`)")
    for path in filter(None, (target.data, target.secrets)):
        if path.is_dir() and any(path.iterdir()) and not target.replace:
            raise BackupError(f"{path} is not empty: say --replace to have it moved aside")


def _segments(repository: Repository, backup: Backup, *, up_to_gap: bool) -> tuple[Segment, ...]:
    try:
        return verify.needed(repository, backup).segments
    except DamagedError as error:
        if not up_to_gap:
            raise BackupError(f"{error}; say --up-to-gap if that will do") from None
        there = repository.segments()
        return core.chain(backup.start, there).segments


def _unpack(repository: Repository, backup: Backup, into: Path) -> None:
    frames = opened(repository.file(backup.id, BASE), repository.key, f"{backup.id}/{BASE}")
    try:
        with tarfile.open(fileobj=Reader(frames), mode="r|") as tar:  # type: ignore[call-overload]  # It only reads.
            tar.extractall(into, filter="data")
    except tarfile.TarError:
        raise DamagedError("the base backup is no archive") from None


def _verify_unpacked(config: Config, data: Path) -> None:
    """By PostgreSQL's own program. The log is judged by replaying it."""
    for path in (data, *data.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    argv = (config.program("pg_verifybackup"), "--no-parse-wal", "--quiet", str(data))
    done = subprocess.run(Guard().command(argv), capture_output=True, check=False, env={"PATH": os.defpath})
    if done.returncode != 0:
        complaint = done.stderr.decode(errors="replace").strip().splitlines()
        raise DamagedError(f"pg_verifybackup refuses it: {complaint[0] if complaint else 'no reason given'}")
    (data / contents.MANIFEST).unlink()


def _stage(repository: Repository, segments: tuple[Segment, ...], data: Path) -> None:
    """What PostgreSQL is to replay, readable to it, and gone when it has."""
    staged, there = data / STAGED, repository.segments()
    staged.mkdir(mode=0o700)
    for path in (*(there[one] for one in segments), *repository.histories()):
        name = path.name.removesuffix(SEALED).removesuffix(PARTIAL)
        (staged / name).write_bytes(verify.unsealed_wal(repository, path))
    (data / "recovery.signal").touch(mode=0o600)


def _give_to_server(data: Path) -> None:
    if (uid := server_uid()) is not None:
        for path in (data, *data.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)


def _replay(config: Config, data: Path, setting: tuple[str, ...]) -> None:
    """Start PostgreSQL on a port that nobody is told, until it has replayed what there is, and stop it again."""
    log = data.with_name(f"{data.name}.log")
    argv = (
        *(
            config.program("postgres"),
            *postgres.command(port=free_ports(1)[0])[1:],
        ),
        *("-c", f'restore_command=cp "{STAGED}/%f" "%p"', *setting),
        *("-c", "recovery_target_action=promote", "-c", "recovery_target_timeline=latest"),
        *("-c", "hot_standby=off", "-c", "archive_mode=off"),
    )
    try:
        with log.open("wb") as output, _server(data, argv, output) as process:
            end_s = time.monotonic() + REPLAY_S_MAX
            while not _is_ready(config, data):
                if process.poll() is not None:
                    raise BackupError(f"PostgreSQL could not replay the log: {_reason(log)}")
                if time.monotonic() > end_s:
                    raise BackupError(f"PostgreSQL did not replay the log within {REPLAY_S_MAX:g} s")
                time.sleep(POLL_S)
    finally:
        log.unlink(missing_ok=True)


@contextmanager
def _server(data: Path, argv: tuple[str, ...], output: object) -> Iterator[subprocess.Popen[bytes]]:
    env = {"PATH": os.defpath}
    command = postgres.guard(data).command(argv)
    with subprocess.Popen(command, env=env, stdout=output, stderr=output) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.send_signal(
                signal.SIGINT
            )  # The fast shutdown: with a checkpoint, so the next start is a clean one.


def _is_ready(config: Config, data: Path) -> bool:
    """It says so in its control file when it takes writes: recovery is over."""
    done = subprocess.run(
        Guard().command((config.program("pg_controldata"), "-D", str(data))),
        env={"PATH": os.defpath, "LC_ALL": "C"}, capture_output=True, check=False)  # fmt: skip
    states = [
        line for line in done.stdout.decode().splitlines() if line.startswith("Database cluster state:")
    ]
    return bool(states) and states[0].endswith(RUNNING) and not (data / "recovery.signal").exists()


def _reason(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    fatal = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
    return fatal[-1] if fatal else "it gave no reason"


def _unsealed_secrets(repository: Repository, backup: Backup, target: Target) -> Path | None:
    if not backup.secrets_sha256 or target.secrets is None:
        return None
    path = repository.file(backup.id, SECRETS)
    into = _aside(target.secrets)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o700, parents=True)
    frames = opened(path, repository.key, f"{backup.id}/{SECRETS}")
    with tarfile.open(fileobj=Reader(frames), mode="r|") as tar:  # type: ignore[call-overload]  # It only reads.
        tar.extractall(into, filter="data")
    for file in into.iterdir():
        file.chmod(0o600)
    return into


def _aside(place: Path) -> Path:
    return place.with_name(f"{place.name}.restoring")


def _move_in(new: Path, place: Path) -> None:
    if place.exists():
        aside = time.strftime(f"{place.name}.replaced-%Y%m%dT%H%M%SZ", time.gmtime())
        place.rename(place.with_name(aside))
    new.rename(place)
