"""`ollamesh simulate`: what it prints, what it refuses, and that questions about a fleet's size have an answer."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clients.cli.main import ollamesh

FLEET = """
[[instances]]
slots = 4
vram_gib = 24

[models.tiny]
vram_gib = 4
load_s = 1
prefill_tokens_per_s = 8000
token_s = 0.01
batch_cost = 0.1
"""
TRACE = "poisson:rate=8,duration=60,model=tiny,prompt=100,output=50,tenants=5,deadline=10"


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return str(path)


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(ollamesh, ["simulate", *arguments], catch_exceptions=False)


def test_a_table_for_people_and_json_for_programs(fleet: str) -> None:
    shown = simulate(TRACE, "--fleet", fleet, "--compare", "ollama", "--compare", "fifo")
    assert shown.exit_code == 0
    first, *rows = shown.stdout.splitlines()
    assert first.split() == ["gateway", "ollama", "fifo"]
    for title in ("instances", "requests", "goodput", "total, s", "GPU busy", "loads: demand", "fairness"):
        assert any(row.startswith(title) for row in rows), title
    told = json.loads(simulate(TRACE, "--fleet", fleet, "--json", "--instances", "3").stdout)
    assert [one["instance_count"] for one in told] == [3]
    assert told[0]["request_count"] == sum(told[0]["outcomes"].values())
    assert set(told[0]["total"]) == {"p50_s", "p95_s", "p99_s"}


def test_the_same_seed_is_the_same_log_and_it_replays(fleet: str, tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("one", "two", "three")]
    for log, seed in zip(logs, ("1", "1", "2"), strict=True):
        assert simulate(TRACE, "--fleet", fleet, "--seed", seed, "--log", str(log)).exit_code == 0
    one, two, three = (log.read_bytes() for log in logs)
    assert one == two
    assert one != three
    done = simulate(str(logs[0]), "--verify")
    assert done.exit_code == 0
    assert done.stdout == f"{len(one.splitlines()):,} lines, and the replay is the same\n"
    logs[0].write_bytes(one.replace(b'"kind":"dispatch","ticket":9}', b'"kind":"dispatch","ticket":8}'))
    done = simulate(str(logs[0]), "--verify")
    assert done.exit_code == 1
    assert '"ticket":9' in done.stderr


def test_a_log_is_a_trace(fleet: str, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    (told,) = json.loads(simulate(TRACE, "--fleet", fleet, "--log", log, "--json").stdout)
    (again,) = json.loads(simulate(log, "--fleet", fleet, "--json").stdout)
    assert again["request_count"] == told["request_count"]


def test_how_many_gpus_it_takes(fleet: str) -> None:
    heavy = TRACE.replace("rate=8", "rate=16")
    shown = simulate(heavy, "--fleet", fleet, "--sweep", "1..4", "--goal", "p95_s=5,refused=0.01")
    assert shown.exit_code == 0, shown.stdout
    rows = shown.stdout.splitlines()
    assert len(rows) == 7
    reached = [row.split()[-1] for row in rows[1:5]]
    assert reached[0] == "no"
    assert rows[-1].split()[0] == str(reached.index("yes") + 1)
    told = json.loads(simulate(heavy, "--fleet", fleet, "--sweep", "1..2", "--json").stdout)
    assert [one["instance_count"] for one in told] == [1, 2]
    missed = simulate(heavy, "--fleet", fleet, "--sweep", "1..1", "--goal", "p95_s=0.1")
    assert (missed.exit_code, missed.stderr) == (1, "ollamesh: 1 instance does not reach the goal\n")
    assert simulate(heavy, "--fleet", fleet, "--goal", "p95_s=0.1").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        ([TRACE], 2, "Missing option '--fleet'"),
        ([TRACE, "--fleet", "FLEET", "--goal", "speed=1"], 2, "'speed' is not one of p50_s"),
        ([TRACE, "--fleet", "FLEET", "--sweep", "8..1"], 2, "is not such as 1..8"),
        ([TRACE, "--fleet", "FLEET", "--sweep", "1..2", "--log", "x"], 2, "--sweep goes with none of"),
        ([TRACE, "--fleet", "missing.toml"], 1, "missing.toml: No such file"),
        (["missing.ndjson", "--fleet", "FLEET"], 1, "missing.ndjson: No such file"),
        (["poisson:rate=1", "--fleet", "FLEET"], 1, "poisson: model is missing"),
        (["poisson:rate=1,model=other", "--fleet", "FLEET"], 1, "'other:latest', which the trace asks for"),
        (["FLEET", "--fleet", "FLEET"], 1, "line 1: is not JSON"),
        (["FLEET", "--verify"], 1, "line 1: is not JSON"),
    ],
)
def test_what_is_wrong_is_named(fleet: str, arguments: list[str], exit_code: int, says: str) -> None:
    done = simulate(*[fleet if argument == "FLEET" else argument for argument in arguments])
    assert done.exit_code == exit_code
    assert says in done.stderr
