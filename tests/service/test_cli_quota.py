"""`ollamesh quota`: what is printed, and what is asked of the mesh."""

import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.quota_pb2 import Quota, QuotaAmount, QuotaLimits, QuotaSubject

from tests.fakes.command_line import Cli, answering, cli, home, mesh
from tests.fakes.scripted_mesh import ScriptedMesh

__all__ = ["cli", "home", "mesh"]
QUOTA = Quota(
    subject=QuotaSubject(project_id="default"),
    limits=QuotaLimits(tokens_per_day=1_000_000, requests_per_second=2.5),
    used=QuotaAmount(token_count=1234, gpu_seconds=5.5),
    reserved=QuotaAmount(token_count=100),
    reset_time=Timestamp(seconds=4_000_000_000),
)


def test_limits_are_shown_for_people_and_for_programs(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["GetQuota"] = answering(pb.GetQuotaResponse(quota=QUOTA))
    shown = cli("quota", "show").stdout.splitlines()
    assert shown[0] == "project default"
    rows = {line.split()[0]: line.split()[1:] for line in shown[2:-1]}
    assert rows["tokens_per_day"] == ["1,000,000", "1,234", "100"]
    assert rows["gpu_seconds_per_day"] == ["unlimited", "5.5", "0"]
    assert rows["requests_per_second"] == ["2.5", "-", "-"]
    told = json.loads(cli("quota", "show", "--json").stdout)["quota"]
    assert told["limits"] == {"requests_per_second": 2.5, "tokens_per_day": 1_000_000}
    assert told["used"]["token_count"] == 1234


def test_what_is_not_named_stays_as_it_is(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[Any] = []

    async def answer(request: object, context: object) -> object:
        asked.append(request)
        return pb.SetQuotaResponse(quota=QUOTA)

    mesh.unary["GetQuota"] = answering(pb.GetQuotaResponse(quota=QUOTA))
    mesh.unary["SetQuota"] = answer
    changed = cli(
        "quota", "set", "--project", "default", "requests_per_second=none", "concurrent_stream_count=3"
    )
    assert changed.exit_code == 0, changed.output
    assert asked[0].subject == QuotaSubject(project_id="default")
    assert asked[0].limits == QuotaLimits(tokens_per_day=1_000_000, concurrent_stream_count=3)
    replaced = cli("quota", "set", "--api-key", "k1", "--replace", "tokens_per_day=5", "--json")
    assert json.loads(replaced.stdout)["quota"]["kind"] == "project"
    assert asked[1].subject == QuotaSubject(api_key_id="k1")
    assert asked[1].limits == QuotaLimits(tokens_per_day=5)


def test_mistakes_are_told_before_anything_is_asked(cli: Cli, mesh: ScriptedMesh) -> None:
    for arguments, says in (
        (("tokens_per_day=5",), "name an --organization"),
        (("--project", "a", "--api-key", "b"), "name one of"),
        (("--project", "a", "tokens=5"), "none of"),
        (("--project", "a", "tokens_per_day=1.5"), "whole number"),
    ):
        result = cli("quota", "set", *arguments)
        assert result.exit_code == 2
        assert says in result.stderr
