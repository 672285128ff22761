"""`ollamesh fleet`: with one instance, with many, in trouble, and while it changes."""

import json

from ollamesh.inference.v1 import fleet_pb2 as pb

from services.common.errors import Kind, MeshError
from tests.fakes.command_line import Cli, answering, cli, home, json_lines, mesh, streaming
from tests.fakes.scripted_mesh import ScriptedMesh

__all__ = ["cli", "home", "mesh"]

GIB = 1 << 30


class Gone(MeshError):
    kind, reason = Kind.DENIED, "ROLE_REQUIRED"
    message = "it is over"


def instance(name: str, **fields: object) -> pb.Instance:
    usual = {"state": pb.INSTANCE_STATE_READY, "version": "0.33", "slot_count": 4, "busy_slot_count": 1}
    return pb.Instance(name=name, **{**usual, "breaker": pb.BREAKER_STATE_CLOSED, **fields})  # type: ignore[arg-type]


def test_gpus_and_models_have_lines_of_their_own(cli: Cli, mesh: ScriptedMesh) -> None:
    models = [
        pb.ResidentModel(name="llama3.2:3b", quantization="Q4_K_M", size_bytes=3 * GIB, vram_bytes=3 * GIB),
        pb.ResidentModel(name="mistral", size_bytes=5 * GIB, vram_bytes=GIB),
    ]
    gpu = pb.Gpu(
        name="H200",
        memory_bytes=139 * GIB,
        memory_used_bytes=12 * GIB,
        utilization=0.87,
        temperature_celsius=54,
    )
    shown = pb.Fleet(instances=[instance("one", resident_models=models, gpus=[gpu]), instance("two")])
    mesh.unary["GetFleet"] = answering(pb.GetFleetResponse(fleet=shown))
    assert cli("fleet").stdout.splitlines() == [
        "INSTANCE  STATE  VERSION  SLOTS BUSY  MODELS IN MEMORY                       GPU",
        "one       ready  0.33            1/4  llama3.2:3b Q4_K_M (3.0 GiB)           H200, 12 GiB of 139 GiB, 87%, 54 °C",
        "                                      mistral (5.0 GiB, in part on the CPU)",
        "two       ready  0.33            1/4  -",
    ]


def test_reasons_and_breakers_are_told_below(cli: Cli, mesh: ScriptedMesh) -> None:
    broken = instance(
        "two",
        state=pb.INSTANCE_STATE_BROKEN,
        state_reason="it fell silent",
        breaker=pb.BREAKER_STATE_HALF_OPEN,
        slot_count=0,
        busy_slot_count=0,
    )
    stale = instance("six", state=pb.INSTANCE_STATE_STALE, state_reason="it cannot be reached")
    many = [instance(f"127.0.0.1:{11434 + place}") for place in range(6)]
    mesh.unary["GetFleet"] = answering(pb.GetFleetResponse(fleet=pb.Fleet(instances=[*many, stale, broken])))
    lines = cli("fleet").stdout.splitlines()
    assert len(lines) == 9 + 4
    assert max(map(len, lines)) < 80
    assert "GPU" not in lines[0]
    assert lines[-3:] == [
        "2 instances not ready:",
        "  six: it cannot be reached",
        "  two: it fell silent (breaker half open)",
    ]


def test_an_empty_fleet_is_said_to_be_one(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["GetFleet"] = answering(pb.GetFleetResponse())
    assert cli("fleet").stdout == "there is no instance\n"
    assert json.loads(cli("fleet", "--json").stdout) == {"instances": [], "queues": []}


def test_changes_are_followed(cli: Cli, mesh: ScriptedMesh) -> None:
    states = [pb.WatchFleetResponse(fleet=pb.Fleet(instances=[instance(name)])) for name in ("one", "two")]
    mesh.streams["WatchFleet"] = streaming(*states, Gone())
    result = cli("fleet", "--watch")
    assert result.exit_code == 4
    first, second = result.stdout.split("\n\n")
    assert first.splitlines()[1].startswith("one ")
    assert second.splitlines()[1].startswith("two ")
    told = json_lines(cli("fleet", "--watch", "--json"))
    assert [(each["event"], each["instances"][0]["name"]) for each in told] == [
        ("fleet", "one"),
        ("fleet", "two"),
    ]
