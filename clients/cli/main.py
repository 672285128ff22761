"""The command line: global options, and commands that are imported only when they run.

Asking for help or for the state of the stack must not load gRPC, so each command lives in a module of its
own and is listed here with the line that help shows.
"""

import importlib
import os
import sys
from pathlib import Path

import click

from clients.cli.settings import DEFAULT_HOME, Settings

# Name: where it is, and its line in the help, in the order in which people meet them.
COMMANDS = {
    "up": ("clients.cli.stack", "Start the stack in the background; return when every part is ready."),
    "down": ("clients.cli.stack", "Stop the stack and leave nothing running."),
    "status": ("clients.cli.stack", "Show each part of the stack."),
    "doctor": ("clients.cli.doctor", "Say what is wrong with this machine, and what mends it."),
    "trace": ("clients.cli.trace", "Show what happened inside a call, and where its time went."),
    "metrics": ("clients.cli.metrics", "Print what a part of the stack measures."),
    "psql": ("clients.cli.psql", "Ask the stack's PostgreSQL something."),
    "edge": ("clients.cli.edge", "Replace the edge of the stack on this machine without losing a call."),
    "rollout": (
        "clients.cli.rollout",
        "Bring a new version of a service in, a share of the calls at a time.",
    ),
    "backup": ("clients.cli.backup", "Back up what must survive, and bring it back."),
    "demo": ("clients.cli.demo", "Start the stack and show the main job end to end."),
    "login": ("clients.cli.login", "Log in, and stay so for the commands that follow."),
    "logout": ("clients.cli.login", "End the saved login, here and in the mesh."),
    "token": ("clients.cli.login", "Print an access token, and nothing else, on standard output."),
    "chat": ("clients.cli.chat", "Talk to a model."),
    "run": ("clients.cli.run", "Have an agent do TASK, and watch it."),
    "approvals": ("clients.cli.approvals", "Show and decide the calls of a run that wait for a person."),
    "exec": (
        "clients.cli.execute",
        "Run the program FILE in the sandbox; - reads it from standard input.",
    ),
    "sandbox": ("clients.cli.sandbox", "Keep sessions in the sandbox, and files in them."),
    "models": ("clients.cli.models", "List and manage models."),
    "fleet": ("clients.cli.fleet", "Show instances, their models and slots, and who waits."),
    "batch": ("clients.cli.batch", "Have many requests answered in idle slots."),
    "keys": ("clients.cli.keys", "Make, list and revoke API keys."),
    "users": ("clients.cli.users", "Manage the users of your organisation."),
    "orgs": ("clients.cli.tenants", "Manage organisations."),
    "projects": ("clients.cli.tenants", "Manage the projects of your organisation."),
    "accounts": ("clients.cli.tenants", "Manage service accounts."),
    "signing": ("clients.cli.signing", "Replace the key that signs tokens."),
    "secrets": ("clients.cli.secrets", "Keep secrets of your organisation for services."),
    "audit": ("clients.cli.audit", "Show, check and export the audit trail."),
    "quota": ("clients.cli.quota", "Show and set what an organisation, a project or a key may use."),
    "simulate": (
        "clients.cli.simulate",
        "Say how a fleet that you describe would do: how many GPUs it takes.",
    ),
}
ATTRIBUTES = {"exec": "execute"}


class LazyGroup(click.Group):
    """A group that knows its commands by name, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - The signature is click's.
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, ATTRIBUTES.get(cmd_name, cmd_name))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - The signature is click's.
    if not asked:
        return
    from services.common.config import Environment
    from services.common.version import read_version

    click.echo(f"ollamesh {read_version(Environment(os.environ))}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="OLLAMESH_HOME",
    default=DEFAULT_HOME,
    show_default=False,
    show_envvar=True,
    help="The folder of the local stack: its state, logs and secrets.",
)
@click.option(
    "--edge",
    metavar="URL",
    envvar="OLLAMESH_EDGE",
    show_envvar=True,
    help="The mesh to talk to, such as https://mesh.example; the local stack if not given.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="OLLAMESH_EDGE_CA",
    show_envvar=True,
    help="The certificates of those who sign the mesh's own, if this system does not know them.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Say which version this is.",
)
@click.pass_context
def ollamesh(ctx: click.Context, home: Path, edge: str | None, ca: Path | None) -> None:
    """Ollamesh: identities, a fair queue, agents and a sandbox for a fleet of Ollama servers.

    You are who OLLAMESH_TOKEN (a token or an API key) says, or who logged in last, or the local stack's admin.

    Exit codes: 0 done, 1 the work failed, 2 usage, 3 not reachable, 4 not allowed.
    """
    # Not an option: every user of the machine can read the arguments of a program.
    token = os.environ.get("OLLAMESH_TOKEN") or None
    ctx.obj = Settings(home=home.absolute(), edge_given=edge or None, token_given=token, ca_given=ca)


def main() -> None:
    """Run the command line and exit."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # What gRPC notes for itself is not for users.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # Better a "?" than a traceback.
    ollamesh(prog_name="ollamesh")
