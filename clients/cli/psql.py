"""`ollamesh psql`: PostgreSQL's own client at this machine's stack, as its owner. It reads only, unless told otherwise."""

import os
import subprocess

import click

from clients.cli.failures import Unreachable
from clients.cli.settings import Settings
from clients.cli.stack import sentences, stack_settings
from deploy.local import board, postgres
from deploy.local.plan import DATABASE
from deploy.local.secret_files import SecretFiles
from deploy.local.servers import postgres_folder

READ_ONLY = "-c default_transaction_read_only=on"


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--write", is_flag=True, help="Let statements change something.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENT]...")
@click.pass_obj
def psql(settings: Settings, arguments: tuple[str, ...], *, write: bool) -> None:
    """Ask the stack's PostgreSQL something.

    ARGUMENTs are those of psql, such as -c 'SELECT 1'. The exit code is psql's.
    """
    stack = stack_settings(settings)
    with sentences():
        found = board.of_running(stack.home)
        program = postgres_folder() / "psql"
    if found is None:
        raise Unreachable("the stack is not running; start it with `ollamesh up`")
    port = next(part.port for part in found.parts if part.name == "postgres")
    access = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": postgres.ADMIN,
        "PGDATABASE": DATABASE,
        "PGPASSWORD": SecretFiles(stack.home).read("postgres_password"),
        "PGOPTIONS": "" if write else READ_ONLY,
        "PGCONNECT_TIMEOUT": "5",
        "PAGER": "",
    }
    done = subprocess.run([str(program), "-X", *arguments], env={**os.environ, **access}, check=False)  # noqa: S603
    raise click.exceptions.Exit(done.returncode)
