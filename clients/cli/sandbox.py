"""`ollamesh sandbox`: sessions whose programs share variables and files, those files, and what there is."""

import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click
from ollamesh.client import Client, sessions
from ollamesh.client.capabilities import Capabilities
from ollamesh.client.executions import Limits

from clients.cli.connection import call
from clients.cli.failures import Failure
from clients.cli.output import print_json, print_table, size
from clients.cli.printable import printable
from clients.cli.sandbox_options import limited, limits_of, where
from clients.cli.settings import Settings

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
FILE_BYTES_MAX = 32 << 20  # If the sandbox does not say how large a file may be.


@click.group()
def sandbox() -> None:
    """Keep sessions in the sandbox, and files in them. `ollamesh exec` runs programs."""


@sandbox.command()
@JSON
@click.pass_obj
def capabilities(settings: Settings, *, as_json: bool) -> None:
    """Show engines, profiles with their packages, and limits."""
    found = call(settings, lambda client: client.sandbox.capabilities())
    if as_json:
        print_json(asdict(found))
        return
    _show(found)


# ---- Sessions --------------------------------------------------------------------------------------


@sandbox.group(name="sessions")
def sessions_() -> None:
    """Jails that keep variables and files from one program to the next."""


@sessions_.command()
@where
@limited
@click.option(
    "--idle",
    "idle_timeout_s",
    type=click.FloatRange(1, 3600),
    help="Seconds without use until it is deleted; 600 if not given.",
)
@JSON
@click.pass_obj
def create(  # noqa: PLR0913 - One for each option.
    settings: Settings,
    *,
    profile: str,
    engine: str,
    memory_bytes: int | None,
    process_count: int | None,
    idle_timeout_s: float | None,
    as_json: bool,
) -> None:
    """Make a session, and print its id, and nothing else, on standard output."""
    limits = limits_of(memory_bytes=memory_bytes, process_count=process_count)

    async def work(client: Client) -> sessions.Session:
        return await client.sandbox.create_session(
            profile=profile, engine=engine, limits=limits, idle_timeout_s=idle_timeout_s
        )

    made = call(settings, work)
    if as_json:
        print_json({"session": asdict(made)})
        return
    click.echo(made.session_id)
    click.echo(f"{made.profile} by {made.engine}; unused, it lasts until {_time(made.expire_time)}", err=True)


@sessions_.command(name="ls")
@JSON
@click.pass_obj
def list_sessions(settings: Settings, *, as_json: bool) -> None:
    """List your sessions, newest first."""

    async def work(client: Client) -> list[sessions.Session]:
        return [session async for session in client.sandbox.list_sessions()]

    found = call(settings, work)
    if as_json:
        print_json({"sessions": [asdict(session) for session in found]})
        return
    print_table(
        ("SESSION", "PROFILE", "ENGINE", "STATE", ">RESTARTS", "UNUSED UNTIL", "AT MOST UNTIL"),
        [
            (
                session.session_id,
                session.profile,
                session.engine,
                session.state,
                str(session.restart_count),
                _time(session.expire_time),
                _time(session.end_time),
            )
            for session in found
        ],
    )


@sessions_.command(name="rm")
@click.argument("session_ids", metavar="SESSION...", nargs=-1, required=True)
@click.pass_obj
def remove_sessions(settings: Settings, session_ids: tuple[str, ...]) -> None:
    """End sessions and forget their files."""

    async def work(client: Client) -> None:
        for session_id in session_ids:
            await client.sandbox.delete_session(session_id)
            click.echo(f"{session_id} is gone")

    call(settings, work)


# ---- Files -----------------------------------------------------------------------------------------


@sandbox.group()
def files() -> None:
    """Files of a session."""


@files.command()
@click.argument("session_id", metavar="SESSION")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True))
@click.argument("path", required=False)
@click.pass_obj
def put(settings: Settings, session_id: str, file: Path, path: str | None) -> None:
    """Copy FILE of this machine into SESSION, as PATH or under its own name; - is standard input."""
    is_stdin = str(file) == "-"
    if is_stdin and path is None:
        raise click.UsageError("say which PATH standard input is to have")

    async def work(client: Client) -> sessions.File:
        content = await _read_stdin(client) if is_stdin else file
        return await client.sandbox.put_file(session_id, path or file.name, content)

    try:
        stored = call(settings, work)
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}") from None
    click.echo(f"{printable(stored.path)}  {size(stored.size_bytes)}")


@files.command()
@click.argument("session_id", metavar="SESSION")
@click.argument("path")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.pass_obj
def get(settings: Settings, session_id: str, path: str, file: Path | None) -> None:
    """Copy PATH of SESSION to FILE of this machine, or to its own name here; - is standard output."""
    to = file or Path(Path(path).name)
    to = to / Path(path).name if to.is_dir() else to

    async def work(client: Client) -> None:
        if str(to) != "-":
            await client.sandbox.save_file(session_id, path, to)
            return
        async for piece in client.sandbox.read_file(session_id, path):
            sys.stdout.buffer.write(piece)

    try:
        call(settings, work)
    except OSError as error:
        raise Failure(f"{to} cannot be written: {error.strerror}") from None
    if str(to) != "-":
        click.echo(f"{to}  {size(to.stat().st_size)}")


@files.command(name="ls")
@click.argument("session_id", metavar="SESSION")
@click.argument("folder", required=False, default="")
@JSON
@click.pass_obj
def list_files(settings: Settings, session_id: str, folder: str, *, as_json: bool) -> None:
    """List what is in FOLDER of SESSION, or in its own folder."""

    async def work(client: Client) -> list[sessions.File]:
        return [file async for file in client.sandbox.list_files(session_id, folder)]

    found = call(settings, work)
    if as_json:
        print_json({"files": [asdict(file) for file in found]})
        return
    print_table(
        ("PATH", ">SIZE", "MODIFIED"),
        [
            (
                f"{file.path}/" if file.is_folder else file.path,
                "" if file.is_folder else size(file.size_bytes),
                _time(file.modified_time),
            )
            for file in found
        ],
    )


@files.command(name="rm")
@click.argument("session_id", metavar="SESSION")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.pass_obj
def remove_files(settings: Settings, session_id: str, paths: tuple[str, ...]) -> None:
    """Remove files of SESSION, and folders with all in them."""

    async def work(client: Client) -> None:
        for path in paths:
            await client.sandbox.delete_file(session_id, path)
            click.echo(f"{printable(path)} is gone")

    call(settings, work)


async def _read_stdin(client: Client) -> bytes:
    """All of standard input, whose size must be known before it is sent."""
    bytes_max = (await client.sandbox.capabilities()).file_bytes_max or FILE_BYTES_MAX
    content = sys.stdin.buffer.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise Failure(f"a file has {size(bytes_max)} at most")
    return content


def _show(found: Capabilities) -> None:
    print_table(
        ("PROFILE", "RUNTIME", "ENGINES", "SESSIONS KEEP"),
        [
            (
                profile.name,
                profile.runtime,
                ", ".join(profile.engines),
                "variables and files" if profile.keeps_variables else "files",
            )
            for profile in found.profiles
        ],
    )
    for profile in found.profiles:
        if profile.packages:
            click.echo(f"\n{printable(profile.name)}: {printable(', '.join(profile.packages))}")
    for missing in found.unavailable_profiles:
        click.echo(
            f"\n{printable(missing.profile)} by {printable(missing.engine)}: {printable(missing.problem)}"
        )
    for engine in found.engines:
        click.echo(f"\n{printable(engine.name)} enforces {printable(', '.join(engine.enforced_limits))}")
        for weakness in engine.weaknesses:
            click.echo(f"  {printable(weakness)}")
    click.echo(f"\nlimits, if nothing is said: {_limits(found.default_limits)}")
    click.echo(f"limits, at most: {_limits(found.max_limits)}")
    click.echo(f"sessions at once: {found.session_count_max} · a file: {size(found.file_bytes_max)}")


def _limits(limits: Limits) -> str:
    facts = [
        limits.wall_s and f"{limits.wall_s:g} s",
        limits.cpu_s and f"{limits.cpu_s:g} s of processor",
        limits.memory_bytes and f"{size(limits.memory_bytes)} of memory",
        limits.process_count and f"{limits.process_count} processes",
        limits.output_bytes and f"{size(limits.output_bytes)} of output",
        limits.files_bytes and f"{size(limits.files_bytes)} of files",
    ]
    return " · ".join(fact for fact in facts if fact) or "none"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}"
