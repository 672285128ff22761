"""`ollamesh audit` and `ollamesh secrets`: what is asked of the mesh, what is printed, and what is remembered."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.audit_pb2 import AuditEvent
from ollamesh.auth.v1.identity_pb2 import Secret

from clients.cli.secrets import _key_id
from services.auth.adapters.seal import key_id_of
from tests.fakes.command_line import Cli, answering, cli, home, mesh
from tests.fakes.scripted_mesh import ScriptedMesh
from tests.service.test_cli_keys import recording

__all__ = ["cli", "home", "mesh"]
WHOLE = pb.VerifyAuditLogResponse(
    intact=True, event_count=5, head_count=2, last_sequence=5, last_hash=b"h" * 32, complete=True
)


def event(sequence: int) -> AuditEvent:
    return AuditEvent(
        sequence=sequence,
        event_time=Timestamp(seconds=1_700_000_000, nanos=1000 * sequence),
        action="AUDIT_ACTION_LOGIN",
        outcome="AUDIT_OUTCOME_DENIED",
        user_id="user:ann",
        object="login\x1b[2J",
        details={"a": "b"},
        hash=b"\x01" * 32,
    )


def test_the_newest_events_come_last_and_a_terminal_obeys_none_of_them(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[Any] = []
    page = pb.ListAuditEventsResponse(events=[event(2), event(1)])
    mesh.unary["ListAuditEvents"] = recording(page, asked)
    shown = cli("audit", "tail", "-n", "2", "--action", "login").stdout
    assert (asked[0].newest_first, asked[0].page_size, asked[0].action) == (True, 2, 1)
    assert len(shown.splitlines()) == 2
    assert "\x1b" not in shown
    lines = [json.loads(line) for line in cli("audit", "tail", "--json").stdout.splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2]
    assert lines[0]["event_time_us"] == 1_700_000_000_000_001


def test_all_pages_are_exported_as_lines(cli: Cli, mesh: ScriptedMesh, tmp_path: Path) -> None:
    async def answer(request: pb.ListAuditEventsRequest, context: object) -> pb.ListAuditEventsResponse:
        at = int(request.page_token or 0)
        return pb.ListAuditEventsResponse(
            events=[event(at + 1)], next_page_token=str(at + 1) if at < 2 else ""
        )

    mesh.unary["ListAuditEvents"] = answer
    result = cli("audit", "export", "-o", str(tmp_path / "out"))
    assert result.exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [(line["sequence"], line["hash"]) for line in lines] == [(n, "01" * 32) for n in (1, 2, 3)]
    assert "3 events" in result.stderr


def test_what_was_whole_is_remembered_and_asked_for_again(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[Any] = []
    mesh.unary["VerifyAuditLog"] = recording(WHOLE, asked)
    first = cli("audit", "verify")
    assert (first.exit_code, first.stdout) == (0, "the audit trail is whole: 5 events, 2 signed heads\n")
    cli("audit", "verify")
    assert [each.after_sequence for each in asked] == [0, 5, 0]
    assert asked[1].after_hash == b"h" * 32
    cli("audit", "verify", "--forget")
    assert [each.after_sequence for each in asked[3:]] == [0]


def test_a_chain_is_verified_part_by_part(cli: Cli, mesh: ScriptedMesh) -> None:
    async def answer(request: pb.VerifyAuditLogRequest, context: object) -> pb.VerifyAuditLogResponse:
        last = request.after_sequence + 5
        return pb.VerifyAuditLogResponse(
            intact=True, event_count=5, last_sequence=last, last_hash=b"h" * 32, complete=last == 15
        )

    mesh.unary["VerifyAuditLog"] = answer
    report = json.loads(cli("audit", "verify", "--json").stdout)
    assert (report["intact"], report["event_count"], report["last_sequence"]) == (True, 15, 15)


def test_a_chain_that_is_not_whole_fails_the_command_and_is_not_remembered(
    cli: Cli, mesh: ScriptedMesh
) -> None:
    broken = pb.VerifyAuditLogResponse(broken_sequence=3, problem="an event is missing", complete=True)
    asked: list[Any] = []
    mesh.unary["VerifyAuditLog"] = recording(broken, asked)
    result = cli("audit", "verify")
    assert result.exit_code == 1
    assert "not whole at event 3: an event is missing" in result.stderr
    cli("audit", "verify")
    assert [each.after_sequence for each in asked] == [0, 0]


def test_a_secret_comes_from_standard_input_and_is_never_printed(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[Any] = []
    stored = Secret(name="hook", version=2, readers=["agent"])
    mesh.unary["PutSecret"] = recording(pb.PutSecretResponse(secret=stored), asked)
    result = cli("secrets", "put", "hook", "--reader", "agent", stdin="s3cret\n")
    assert (result.exit_code, result.stdout) == (0, "hook, version 2, for agent\n")
    assert (asked[0].value, list(asked[0].readers)) == (b"s3cret", ["agent"])
    assert "s3cret" not in result.output
    assert cli("secrets", "put", "hook", "--reader", "agent").exit_code == 2
    assert cli("secrets", "put", "hook", "s3cret", "--reader", "agent", stdin="x").exit_code == 2


def test_secrets_are_listed_and_forgotten(cli: Cli, mesh: ScriptedMesh) -> None:
    stored = Secret(name="hook", version=2, readers=["agent", "sandbox"])
    mesh.unary["ListSecrets"] = answering(pb.ListSecretsResponse(secrets=[stored]))
    shown = cli("secrets", "ls").stdout.splitlines()
    assert shown[1].split() == ["hook", "2", "agent,", "sandbox"]
    assert json.loads(cli("secrets", "ls", "--json").stdout)["secrets"][0]["version"] == 2
    asked: list[Any] = []
    mesh.unary["DeleteSecret"] = recording(pb.DeleteSecretResponse(), asked)
    assert cli("secrets", "rm", "hook").stdout == "hook is gone\n"
    assert asked[0].name == "hook"


@pytest.mark.parametrize(("unreadable", "code"), [(0, 0), (3, 1)])
def test_sealing_anew_says_what_no_key_opens(
    cli: Cli, mesh: ScriptedMesh, unreadable: int, code: int
) -> None:
    done = pb.ResealSecretsResponse(key_id="k", unreadable_count=unreadable)
    mesh.unary["ResealSecrets"] = answering(done)
    assert cli("secrets", "rotate").exit_code == code


def test_a_new_key_is_for_the_local_stack(cli: Cli, mesh: ScriptedMesh) -> None:
    cli.environment["OLLAMESH_TOKEN"] = "t"
    assert cli("secrets", "rotate", "--new-key", OLLAMESH_EDGE="http://127.0.0.1:1").exit_code == 2


def test_both_sides_call_a_key_the_same() -> None:
    assert _key_id("k" * 44) == key_id_of("k" * 44)
