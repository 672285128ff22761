"""The embedded PostgreSQL: made once, started by path, reached over TCP with a password only.

As root it runs as uid 65534. Its data stay in OLLAMESH_HOME even if that uid may not enter the folders
above: the server starts inside its data directory and knows it as /proc/self/cwd, which needs no look at
any parent, and nobody's permissions change but those of the data directory itself.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.local import servers
from deploy.local.errors import ClusterBusyError, ClusterError, StackError
from services.common.launch import Guard, server_uid

ADMIN = "ollamesh"
HERE = "/proc/self/cwd"
ORPHAN_WAIT_S = 10.0  # A fast shutdown takes 0.2 s, and a checkpoint on a slow disk a few more.
# A developer's machine: small buffers, since the page cache does the work.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # Sockets are limited to 107 bytes of path; nobody needs one.
    "shared_buffers": "32MB",
    "shared_preload_libraries": "pg_stat_statements",
    # Who follows the log for backups and stays away must not fill the disk: deploy/backup makes a new base then.
    "max_slot_wal_keep_size": "1GB",
}
# For data that a test throws away.
UNSAFE_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def dsn(*, port: int, database: str, role: str, password: str) -> str:
    return f"postgresql://{role}:{password}@127.0.0.1:{port}/{database}"


def command(*, port: int, durable: bool = True) -> tuple[str, ...]:
    """The server's command; to be started with `guard(data)`."""
    settings = SETTINGS if durable else SETTINGS | UNSAFE_SETTINGS
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return (str(servers.postgres()), "-D", HERE, "-p", str(port), *options)


def guard(data: Path) -> Guard:
    # SIGINT is the server's fast shutdown: its backends go too, and the data need no recovery.
    return Guard(orphan_signal=signal.SIGINT, uid=server_uid(), folder=str(data))


def prepare(data: Path, *, password: str, durable: bool = True) -> None:
    """Make the data directory if there is none; leave it fit for a start, whatever happened before.

    Raises StackError. An interrupted first time leaves nothing that a second has to mind.
    """
    if (data / "PG_VERSION").exists():
        _end_previous(data)
        return
    data.parent.mkdir(parents=True, exist_ok=True)
    unfinished = data.with_name(f"{data.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if (uid := server_uid()) is not None:
        os.chown(unfinished, uid, uid)
    _initdb(unfinished, password, durable=durable)
    unfinished.rename(data)


def _initdb(data: Path, password: str, *, durable: bool) -> None:
    argv = (str(servers.postgres_folder() / "initdb"), "-D", HERE, "-U", ADMIN, "-E", "UTF8", "--no-locale",
            "--auth=scram-sha-256", "--pwfile=/proc/self/fd/0", *(() if durable else ("--no-sync",)))  # fmt: skip
    with tempfile.NamedTemporaryFile(mode="w", dir=data.parent) as secret:
        secret.write(password)
        secret.flush()
        if (uid := server_uid()) is not None:
            os.fchown(secret.fileno(), uid, uid)  # It is opened anew through /proc by that uid.
        guarded = Guard(uid=server_uid(), folder=str(data), stdin=secret.name).command(argv)
        # The server reads other settings of the environment than ours: PGPORT, PGDATA, PGOPTIONS.
        done = subprocess.run(guarded, env={"PATH": os.defpath}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(_reason(done.stderr))


def _reason(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return (errors or lines or ["initdb gave no reason"])[0].removeprefix("initdb: error: ")


def _end_previous(data: Path) -> None:
    """After a crash, `postmaster.pid` may name a process that is gone, or by now another program.

    The server would refuse to start if that program is the same user's. If it really is our server, left
    by a supervisor that was killed a moment ago, it is already shutting down.
    """
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        lock.unlink(missing_ok=True)
        return
    end_s = time.monotonic() + ORPHAN_WAIT_S
    while serves(pid, data):
        if time.monotonic() > end_s:
            raise ClusterBusyError(pid)
        time.sleep(0.05)
    lock.unlink(missing_ok=True)


def serves(pid: int, data: Path) -> bool:
    """Is that process the server of these data?"""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data)
    except OSError:  # Gone, or another user's.
        return False


if __name__ == "__main__":
    try:
        prepare(Path(sys.argv[1]), password=Path(sys.argv[2]).read_text())
    except StackError as error:
        sys.exit(f"ollamesh: {error}")
