"""`ollamesh signing rotate`: what is asked for, and what is said."""

import json
from typing import Any

from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.common.errors import RoleRequired
from tests.fakes.command_line import Cli, answering, cli, home, mesh
from tests.fakes.scripted_mesh import ScriptedMesh

__all__ = ["cli", "home", "mesh"]
MADE = pb.RotateSigningKeyResponse(key_id="k" * 43)
MADE.active_time.FromSeconds(1_800_000_000)


def test_a_key_is_replaced_as_planned_or_at_once(cli: Cli, mesh: ScriptedMesh) -> None:
    received: list[Any] = []

    async def rotate(request: Any, context: object) -> Any:
        received.append(request)
        return MADE

    mesh.unary["RotateSigningKey"] = rotate
    assert "signs from" in cli("signing", "rotate").stdout
    assert "log in again" in cli("signing", "rotate", "--emergency", "--request-id", "r1").stdout
    told = json.loads(cli("signing", "rotate", "--json").stdout)
    assert told == {"key_id": MADE.key_id, "active_time": "2027-01-15T08:00:00+00:00"}
    assert [(one.emergency, one.request_id) for one in received] == [(False, ""), (True, "r1"), (False, "")]


def test_who_may_not_is_told_so(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["RotateSigningKey"] = answering(RoleRequired(role="admin"))
    assert cli("signing", "rotate").exit_code == 4
