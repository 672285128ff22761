"""The commands of `python -m deploy.backup` and of `ollamesh backup`.

With OLLAMESH_HOME (which `ollamesh` always has) they are about the stack on this machine: backups lie in its folder
`backups` unless OLLAMESH_BACKUP_FOLDER says where it is safer.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from deploy.backup import base
from deploy.backup.config import Config, new_passphrase
from deploy.backup.errors import BackupError
from deploy.backup.repository import Backup, Repository
from deploy.backup.restore import Target
from deploy.backup.restore import restore as restore_backup
from deploy.backup.verify import verify as verify_backup
from deploy.local import board

EXIT_FAILED = 1
T = TypeVar("T")


@click.group()
def backup() -> None:
    """Back up what must survive, and bring it back.

    The passphrase comes from OLLAMESH_BACKUP_PASSPHRASE_FILE. Keep it elsewhere: without it, nothing here can be read.
    """


@backup.command()
@click.pass_context
def create(ctx: click.Context) -> None:
    """Make a base backup now. It counts when it is on disk and was read back."""
    made = told(lambda: base.create(Config.from_env(_variables(ctx), live=True)))
    click.echo(f"{made.id}: {_mib(made.plain_bytes)}, sealed {_mib(made.sealed_bytes)}")


@backup.command()
@click.pass_context
def passphrase(ctx: click.Context) -> None:
    """Change the passphrase to that of OLLAMESH_BACKUP_NEW_PASSPHRASE_FILE. What was sealed before opens with it, too."""
    new = told(lambda: new_passphrase(os.environ))
    told(lambda: _open(ctx).change_passphrase(new))
    click.echo("the passphrase is changed; the old one opens copies of key.json that somebody made before")


@backup.command()
@click.pass_context
def follow(ctx: click.Context) -> None:
    """Seal the write-ahead log as it is written, and make a base backup each day, until SIGTERM."""
    from deploy.backup.follow import Follower

    variables = _variables(ctx)
    os.environ.update(variables)  # The base backups that it makes are processes of their own.
    follower = told(lambda: Follower(Config.from_env(variables, live=True), say=_say))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: follower.stop())
    told(follower.run)


@backup.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each backup.")
@click.pass_context
def ls(ctx: click.Context, *, as_json: bool) -> None:
    """Show the backups, oldest first."""
    repository = told(lambda: _open(ctx))
    for name in repository.ids():
        found = told(lambda name=name: repository.backup(name))  # type: ignore[misc]
        click.echo(json.dumps(msgspec.to_builtins(found)) if as_json else _line(found))
    followed = repository.wal / ".followed"
    if followed.exists() and not as_json:
        click.echo(f"the log is sealed up to {_time(followed.stat().st_mtime)}")


@backup.command()
@click.argument("backup_id", metavar="[ID]", default="")
@click.pass_context
def verify(ctx: click.Context, backup_id: str) -> None:
    """Read all of a backup, and of the log behind it; fail if a byte is wrong or a segment missing."""
    repository = told(lambda: _open(ctx))
    found = told(
        lambda: verify_backup(repository, repository.backup(backup_id) if backup_id else repository.newest())
    )
    click.echo(
        f"{found.backup.id} is whole, with {found.segment_count} segments of log: "
        f"it can be restored as of {_time(found.until)}, or any time from {_time(found.backup.finished)} on"
    )


@backup.command()
@click.argument("backup_id", metavar="[ID]", default="")
@click.option("--until", default="", metavar="TIME|LSN", help="As of then; the latest there is if not given.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="PostgreSQL's data directory, if not the stack's."
)
@click.option("--secrets", type=click.Path(path_type=Path), help="Where the secrets go; with --data.")
@click.option("--replace", is_flag=True, help="What is there is moved aside.")
@click.option("--up-to-gap", is_flag=True, help="If segments are missing, restore what is before them.")
@click.pass_context
def restore(
    ctx: click.Context, /, backup_id: str, until: str, data: Path | None, secrets: Path | None, **flags: bool
) -> None:
    """Bring PostgreSQL's data and the secrets back into a stack that is down. Then start it."""
    variables = _variables(ctx)
    if data is None:
        home = Path(variables["OLLAMESH_HOME"]) if "OLLAMESH_HOME" in variables else None
        if home is None:
            raise click.UsageError("give --data, or set OLLAMESH_HOME")
        if board.of_running(home) is not None:
            _fail("the stack is running: stop it first (`make down`)")
        data, secrets = home / "data" / "postgres", home / "secrets"
    target = Target(data=data.absolute(), secrets=secrets and secrets.absolute(), until=until, **flags)
    restored = told(lambda: restore_backup(Config.from_env(variables, live=False), backup_id, target))
    click.echo(
        f"{restored.id} is restored to {data}, {f'as of {until}' if until else 'as late as there was'}"
    )


def told(work: Callable[[], T]) -> T:
    try:
        return work()
    except (BackupError, OSError) as error:
        _fail(str(error))
        raise AssertionError from error


def _fail(sentence: str) -> None:
    _say(f"ollamesh: {sentence}")
    sys.exit(EXIT_FAILED)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _variables(ctx: click.Context) -> dict[str, str]:
    """The environment, with the local stack's places where nothing else is said."""
    found = dict(os.environ)
    if (home := getattr(ctx.obj, "home", None)) is not None:
        found["OLLAMESH_HOME"] = str(home)
    if "OLLAMESH_HOME" in found:
        home = Path(found["OLLAMESH_HOME"])
        found.setdefault("OLLAMESH_BACKUP_FOLDER", str(home / "backups"))
        if "OLLAMESH_ADMIN_DATABASE_URL" not in found:
            found.setdefault("OLLAMESH_ADMIN_DATABASE_URL_FILE", str(home / "secrets" / "admin_database_url"))
    return found


def _open(ctx: click.Context) -> Repository:
    config = Config.from_env(_variables(ctx), live=False)
    return Repository.open(config.folder, config.passphrase)


def _line(found: Backup) -> str:
    return (
        f"{found.id}  {_mib(found.plain_bytes)}, sealed {_mib(found.sealed_bytes)}, from {found.start_lsn} "
        f"on time line {found.timeline}, PostgreSQL {found.server_version}"
        f"{'' if found.secrets_sha256 else ', without secrets'}"
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
