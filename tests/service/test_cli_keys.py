"""`ollamesh keys`: what is printed, where, and what is asked of the mesh."""

import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_USER, ApiKey

from services.common.errors import Kind, MeshError
from tests.fakes.command_line import Cli, answering, cli, home, mesh
from tests.fakes.scripted_mesh import ScriptedMesh

__all__ = ["cli", "home", "mesh"]
KEY = ApiKey(
    api_key_id="0aB3dE5fG7hI",
    display_name="nightly",
    prefix="omk_live_0aB3dE5fG7hI",
    user_id="user:admin",
    scopes=["inference"],
    role=ROLE_USER,
    create_time=Timestamp(seconds=1_700_000_000),
    expire_time=Timestamp(seconds=4_000_000_000),
)
TEXT = "omk_live_0aB3dE5fG7hI_whole"


class Missing(MeshError):
    kind, reason = Kind.MISSING, "NOT_FOUND"
    message = "there is no such object"


def recording(response: object, asked: list[Any]) -> Any:
    async def answer(request: object, context: object) -> object:
        asked.append(request)
        return response

    return answer


def test_a_key_is_all_that_is_printed(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[Any] = []
    mesh.unary["CreateApiKey"] = recording(pb.CreateApiKeyResponse(api_key=KEY, secret=TEXT), asked)
    result = cli("keys", "create", "nightly", "--scope", "inference", "--role", "user", "--days", "1")
    assert (result.exit_code, result.stdout) == (0, TEXT + "\n")
    assert "not shown again" in result.stderr
    (request,) = asked
    assert (request.display_name, list(request.scopes), request.role) == ("nightly", ["inference"], ROLE_USER)
    assert request.lifetime.seconds == 86_400
    assert request.request_id


def test_keys_are_listed_for_people_and_for_programs(cli: Cli, mesh: ScriptedMesh) -> None:
    used = ApiKey()
    used.CopyFrom(KEY)
    used.last_used_time.seconds = 1_700_000_500
    used.revoke_time.seconds = 1_700_000_900
    mesh.unary["ListApiKeys"] = answering(pb.ListApiKeysResponse(api_keys=[KEY, used]))
    shown = cli("keys", "ls").stdout.splitlines()
    assert shown[0].split() == ["KEY", "NAME", "OWNER", "ROLE", "SCOPES", "LAST", "USED", "STATE"]
    assert "never" in shown[1]
    assert shown[2].endswith("revoked")
    found = json.loads(cli("keys", "ls", "--json").stdout)["api_keys"]
    assert [key["revoke_time"] is None for key in found] == [True, False]


def test_a_key_is_revoked_by_its_id_or_by_how_it_begins(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[Any] = []
    mesh.unary["RevokeApiKey"] = recording(pb.RevokeApiKeyResponse(api_key=KEY), asked)
    for name in (KEY.api_key_id, KEY.prefix, TEXT):
        result = cli("keys", "revoke", name)
        assert (result.exit_code, result.stdout) == (0, "key 0aB3dE5fG7hI (nightly) is revoked\n")
    assert {request.api_key_id for request in asked} == {KEY.api_key_id}
    assert json.loads(cli("keys", "revoke", "x", "--json").stdout)["api_key"]["api_key_id"] == KEY.api_key_id
    mesh.unary["RevokeApiKey"] = answering(Missing(kind="api_key"))
    assert cli("keys", "revoke", "other").exit_code == 1


def test_a_key_is_a_token_to_the_command_line(cli: Cli) -> None:
    assert cli("token", OLLAMESH_TOKEN=TEXT).stdout == TEXT + "\n"
