"""Identity, failures, models and the fleet on the command line: what is printed, and the exit code."""

import json
import os
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from click.testing import CliRunner
from ollamesh.inference.v1.fleet_pb2 import (
    INSTANCE_STATE_READY,
    Fleet,
    GetFleetResponse,
    Instance,
    ModelQueue,
    ResidentModel,
)
from ollamesh.inference.v1.model_pb2 import (
    CopyModelResponse,
    DeleteModelResponse,
    LoadModelResponse,
    PullModelResponse,
    UnloadModelResponse,
)

from clients.cli.main import COMMANDS, ollamesh
from services.common.errors import Kind, MeshError, RoleRequired
from tests.fakes.command_line import Cli, answering, cli, home, mesh, streaming
from tests.fakes.scripted_mesh import PASSWORD, ScriptedMesh

__all__ = ["cli", "home", "mesh"]


class ModelNotFound(MeshError):
    kind, reason = Kind.MISSING, "MODEL_NOT_FOUND"
    message = "no instance has the model"


class TimedOut(MeshError):
    kind, reason = Kind.TIMED_OUT, "QUEUE_TIMEOUT"
    message = "no slot became free in time"


class QueueFull(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    message = "every waiting place is taken"
    retry_after_s = 1.5


# ---- Being somebody --------------------------------------------------------------------------------


def test_a_token_is_all_that_is_printed(cli: Cli, mesh: ScriptedMesh) -> None:
    result = cli("token")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "token-1\n", "")


def test_a_token_may_be_lesser_and_shorter(cli: Cli, mesh: ScriptedMesh) -> None:
    assert cli("token", "--role", "user", "--ttl", "60").exit_code == 0
    (login,) = mesh.logins
    assert (login.role, login.lifetime.seconds) == (1, 60)  # type: ignore[union-attr]


def test_a_given_token_cannot_be_narrowed(cli: Cli) -> None:
    assert cli("token", OLLAMESH_TOKEN="mine").stdout == "mine\n"
    assert cli("token", "--role", "user", OLLAMESH_TOKEN="mine").exit_code == 4


def test_a_login_is_kept_and_forgotten(cli: Cli, mesh: ScriptedMesh, home: Path) -> None:
    first = cli("login", "--username", "admin", "--password-stdin", stdin=PASSWORD + "\n")
    assert first.exit_code == 0
    assert first.stdout.startswith(f"logged in to {mesh.url} as admin until ")
    assert cli("token").stdout == "token-1\n"
    assert len(mesh.logins) == 1
    assert cli("login", "--forget").exit_code == 0
    assert cli("token").stdout == "token-2\n"


def test_a_login_asks_for_what_it_is_not_told(cli: Cli, mesh: ScriptedMesh) -> None:
    result = cli("login", stdin=f"\n{PASSWORD}\n")
    assert result.exit_code == 0
    assert PASSWORD not in result.output
    assert mesh.logins[0].username == "admin"  # type: ignore[union-attr]


def test_a_wrong_password_is_not_allowed(cli: Cli, home: Path) -> None:
    result = cli("login", "--username", "admin", "--password-stdin", stdin="wrong\n")
    assert result.exit_code == 4
    assert result.stderr == "ollamesh: the name or the password is wrong (CREDENTIALS_INVALID)\n"
    assert not (home / "secrets" / "login.json").exists()


# ---- Failures --------------------------------------------------------------------------------------


def test_nobody_is_not_allowed(tmp_path: Path) -> None:
    result = Cli(tmp_path, "http://127.0.0.1:1")("fleet")
    assert result.exit_code == 4
    assert "`ollamesh login`" in result.stderr


def test_a_mesh_that_is_down_is_not_reachable(tmp_path: Path) -> None:
    result = Cli(tmp_path, "http://127.0.0.1:1")("fleet", OLLAMESH_TOKEN="mine")
    assert result.exit_code == 3
    assert "http://127.0.0.1:1" in result.stderr
    assert "`ollamesh up`" in result.stderr


def test_a_mesh_that_is_silent_is_not_reachable(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["GetFleet"] = answering(TimedOut())
    assert cli("fleet").exit_code == 1  # A service that gives up has been reached.

    async def aborts(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "")

    mesh.unary["GetFleet"] = aborts
    result = cli("fleet")
    assert (result.exit_code, result.stderr) == (
        3,
        f"ollamesh: the mesh at {mesh.url} did not answer in time\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "task", "--watch", "id"],
        ["exec", "no-such-file"],
        ["token", "--ttl", "0"],
        ["--edge", "ftp://x", "token"],
    ],
)
def test_misuse_is_told_apart(cli: Cli, arguments: list[str]) -> None:
    assert cli(*arguments, OLLAMESH_TOKEN="mine").exit_code == 2


def test_an_address_that_is_none_is_misuse(cli: Cli) -> None:
    result = cli("--edge", "ftp://x", "fleet", OLLAMESH_TOKEN="mine")
    assert result.exit_code == 2
    assert "http://127.0.0.1:8080" in result.stderr


@pytest.mark.parametrize(
    ("failure", "exit_code", "said"),
    [
        (ModelNotFound(model="x"), 1, "no instance has the model (MODEL_NOT_FOUND, model x)"),
        (QueueFull(), 1, "every waiting place is taken (QUEUE_FULL, try again in 1.5 s)"),
        (RoleRequired(role="admin"), 4, "the method needs another role (ROLE_REQUIRED, role admin)"),
    ],
)
def test_a_refusal_is_one_sentence_and_a_code(
    cli: Cli, mesh: ScriptedMesh, failure: MeshError, exit_code: int, said: str
) -> None:
    mesh.unary["GetFleet"] = answering(failure)
    result = cli("fleet")
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", f"ollamesh: {said}\n")


def test_broken_rules_are_listed(cli: Cli) -> None:
    result = cli("chat", "../etc", stdin="hello")
    assert result.exit_code == 1
    assert "\n  model: " in result.stderr


# ---- Models and the fleet --------------------------------------------------------------------------


def pulling(status: str, **more: Any) -> PullModelResponse:
    return PullModelResponse(progress={"instance": "one", "status": status, **more})


def test_models_are_listed(cli: Cli) -> None:
    lines = cli("models", "ls").stdout.splitlines()
    head = ["MODEL", "SIZE", "MEMORY", "PARAMETERS", "QUANTIZATION", "CAN", "LOADED", "ON"]
    assert lines[0].split() == head
    assert lines[2].split() == ["llama3.2:3b", "2.0", "GiB", "3.0", "GiB", "completion", "one", "(pinned)"]
    listed = json.loads(cli("models", "ls", "--json").stdout)["models"]
    assert [model["name"] for model in listed] == ["minilm", "llama3.2:3b"]
    assert (listed[1]["size_bytes"], listed[1]["capabilities"]) == (2 << 30, ["completion"])


def test_a_command_for_what_this_mesh_does_not_serve_says_so(cli: Cli) -> None:
    result = cli("models", "pull", "llama3.2:3b")
    assert result.exit_code == 1
    assert "not served by this version" in result.stderr


def test_a_pull_is_told_step_by_step(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.streams["PullModel"] = streaming(
        pulling("pulling manifest"),
        *(pulling("pulling abc", digest="abc", total_bytes=2048, completed_bytes=n) for n in (0, 1024, 2048)),
        pulling("success"),
        PullModelResponse(done={"model": {"name": "x:latest", "size_bytes": 2048, "instances": ["one"]}}),
    )
    assert cli("models", "pull", "x").stdout.splitlines() == [
        "one: pulling manifest",
        "one: pulling abc (2.0 KiB)",
        "one: success",
        "x:latest (2.0 KiB) is on one",
    ]
    told = [json.loads(line) for line in cli("models", "pull", "x", "--json").stdout.splitlines()]
    assert [each["event"] for each in told] == ["pull_progress"] * 5 + ["pulled"]
    assert (told[2]["completed_bytes"], told[-1]["model"]["name"]) == (1024, "x:latest")


def test_a_pull_that_fails_is_a_sentence(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.streams["PullModel"] = streaming(pulling("pulling manifest"), ModelNotFound(model="x"))
    result = cli("models", "pull", "x")
    assert (result.exit_code, result.stdout) == (1, "one: pulling manifest\n")
    assert "MODEL_NOT_FOUND" in result.stderr
    mesh.streams["PullModel"] = streaming(RoleRequired(role="admin"))
    assert cli("models", "pull", "x").exit_code == 4


def test_models_are_managed(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[Any] = []

    def answering_all(response: object) -> Any:
        async def answer(request: object, _: object) -> object:
            asked.append(request)
            return response

        return answer

    mesh.unary["DeleteModel"] = answering_all(DeleteModelResponse())
    mesh.unary["CopyModel"] = answering_all(CopyModelResponse(model={"name": "y:latest"}))
    mesh.unary["LoadModel"] = answering_all(LoadModelResponse(instance="one"))
    mesh.unary["UnloadModel"] = answering_all(UnloadModelResponse())
    assert cli("models", "rm", "x").exit_code == 0
    assert cli("models", "cp", "x", "y", "--json").stdout.startswith('{"model": {"name": "y:latest"')
    assert cli("models", "preload", "x", "--pin").stdout == "x is loaded on one\n"
    told = json.loads(cli("models", "preload", "x", "--instance", "one", "--json").stdout)
    assert told == {"model": "x", "instance": "one", "pinned": False}
    assert cli("models", "unload", "x").exit_code == 0
    assert [(each.instance, each.pin) for each in asked[2:4]] == [("", True), ("one", False)]
    assert all(each.request_id for each in asked)


def test_the_fleet_is_shown(cli: Cli, mesh: ScriptedMesh) -> None:
    instance = Instance(
        name="one", state=INSTANCE_STATE_READY, version="0.33", slot_count=4, busy_slot_count=1
    )
    instance.resident_models.append(ResidentModel(name="llama3.2:3b", size_bytes=3 << 30))
    queue = ModelQueue(model="llama3.2:3b", interactive_waiting_count=1, batch_waiting_count=2)
    mesh.unary["GetFleet"] = answering(GetFleetResponse(fleet=Fleet(instances=[instance], queues=[queue])))
    shown = cli("fleet").stdout.splitlines()
    assert shown[1].split() == ["one", "ready", "0.33", "1/4", "llama3.2:3b", "(3.0", "GiB)"]
    assert shown[4].split() == ["llama3.2:3b", "3", "0.0", "s"]
    told = json.loads(cli("fleet", "--json").stdout)
    assert (told["instances"][0]["slot_count"], told["queues"][0]["waiting_count"]) == (4, 3)


# ---- Help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says(name: str) -> None:
    command = ollamesh.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(200) == COMMANDS[name][1]


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(ollamesh, ["--help"], env=dict(os.environ)).stdout
    assert all(f"\n  {name} " in shown for name in COMMANDS)
