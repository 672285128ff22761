"""Traces, descriptions, fleets and goals: what they mean, and how mistakes in them are named."""

import json
from collections import Counter
from pathlib import Path

import pytest

from services.inference.core.jobs import Priority
from services.inference.core.prefixes import Prefix
from services.inference.simulation.fields import Malformed
from services.inference.simulation.fleet_spec import GIB, FleetSpec, parse_fleet, read_fleet
from services.inference.simulation.goals import parse_goal, parse_sweep
from services.inference.simulation.parts import Block
from services.inference.simulation.prompts import Prompts
from services.inference.simulation.simulate import arrivals_from
from services.inference.simulation.synthetic import synthesise
from services.inference.simulation.trace import Arrival

HEADER = '{"kind": "header", "version": 1}'
PLAIN = '{"at_s": 1, "model": "Tiny", "prompt_tokens": 9, "output_tokens": 4}'


def arrivals(tmp_path: Path, *lines: str) -> list[Arrival]:
    path = tmp_path / "trace.ndjson"
    path.write_text("".join(f"{line}\n" for line in lines))
    return arrivals_from(str(path), seed=0)


def test_an_arrival_says_what_came(tmp_path: Path) -> None:
    full = {
        "kind": "arrival",
        "at_s": 2.5,
        "tenant": "a",
        "model": "llama3.2:3b",
        "priority": "batch",
        "prompt_tokens": 100,
        "output_tokens": 40,
        "output_max": 64,
        "deadline_s": 30,
        "queue_timeout_s": 5,
        "leaves_after_s": 7,
        "conversation": "c",
        "prefixes": [{"key": "k2", "tokens": 90}, {"key": "k1", "tokens": 50}],
    }
    found = arrivals(tmp_path, HEADER, PLAIN, json.dumps(full))
    assert found[0] == Arrival(at_s=1.0, model="tiny:latest", prompt_tokens=9, output_tokens=4)
    assert found[1] == Arrival(
        at_s=2.5,
        tenant="a",
        model="llama3.2:3b",
        priority=Priority.BATCH,
        prompt_tokens=100,
        output_tokens=40,
        output_max=64,
        deadline_s=30.0,
        queue_timeout_s=5.0,
        leaves_after_s=7.0,
        conversation="c",
        prefixes=(Prefix(key="k2", token_count=90), Prefix(key="k1", token_count=50)),
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: is not JSON"),
        ("7", "line 2: is not an object"),
        (PLAIN.replace("at_s", "at"), "line 2: at_s is missing"),
        (PLAIN.replace("1,", "-1,"), r"line 2: at_s is not from 0 to 1e\+15, but -1"),
        (PLAIN.replace("1,", "NaN,"), "line 2: at_s is not a number, but nan"),
        (PLAIN.replace("1,", "true,"), "line 2: at_s is not a number, but True"),
        (PLAIN.replace("9", "9.5"), "line 2: prompt_tokens is not a whole number, but 9.5"),
        (PLAIN.replace('"Tiny"', "3"), "line 2: model is not a text, but 3"),
        (PLAIN.replace("}", ', "deadline": 3}'), "line 2: deadline is not known here"),
        (PLAIN.replace("}", ', "kind": "submit"}'), "line 2: kind is not one of arrival, but 'submit'"),
        (PLAIN.replace("}", ', "priority": "high"}'), "line 2: priority is not one of interactive"),
        (PLAIN.replace("9", "0").replace("4", "0"), "line 2: prompt_tokens and output_tokens are both 0"),
        (PLAIN.replace("}", ', "prefixes": [{"key": "a"}]}'), r"line 2: prefixes\[0\]: tokens is missing"),
        (
            PLAIN.replace("}", ', "prefixes": [{"key":"a","tokens":1},{"key":"b","tokens":2}]}'),
            "line 2: prefixes is not ordered",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_field(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        arrivals(tmp_path, HEADER, line)


def test_the_first_line_says_what_the_file_is(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="line 1: there is none"):
        arrivals(tmp_path)
    with pytest.raises(Malformed, match="line 1: kind is missing"):
        arrivals(tmp_path, PLAIN)
    with pytest.raises(Malformed, match="line 1: version is not 1, the only one that is understood, but 2"):
        arrivals(tmp_path, HEADER.replace("1", "2"), PLAIN)
    with pytest.raises(Malformed, match="line 3: at_s is before that of the line above, 1"):
        arrivals(tmp_path, HEADER, PLAIN, PLAIN.replace("1,", "0.5,"))


# Recordings

RECORDED = (
    '{"kind":"header","version":1,"recorded":true,"policy":{},"estimates":{}}',
    '{"at_s":100.5,"kind":"observe","instance":"one"}',
)


def submitted(ticket: int, at_s: float, **changes: object) -> str:
    values: dict[str, object] = {
        "kind": "submit",
        "at_s": at_s,
        "ticket": ticket,
        "tenant": "a1b2",
        "model": "tiny:latest",
        "priority": "default",
        "arrived_at_s": at_s,
        "expires_at_s": at_s + 60,
        "deadline_at_s": at_s + 30,
        "prompt_tokens": 50,
        "output_max": 0,
        "prefixes": [],
        "avoid": [],
    }
    return json.dumps(values | changes)


def test_a_recording_is_a_trace_of_what_came_and_what_it_took(tmp_path: Path) -> None:
    usage = {"prompt_token_count": 77, "output_token_count": 33}
    found = arrivals(
        tmp_path,
        *RECORDED,
        submitted(1, 101.0),
        submitted(2, 102.0),
        json.dumps({"kind": "end", "at_s": 103.0, "ticket": 1, "usage": usage}),
        '{"kind":"settled","ticket":1}',
        submitted(3, 104.0, output_max=20),
        '{"kind":"refuse","ticket":3}',
        submitted(4, 105.0),
        '{"kind":"end","at_s":106.0,"ticket":4,"usage":null}',  # An instance failed it,
        submitted(4, 106.0, arrived_at_s=105.0, avoid=["one"]),  # and another one is to have it.
        '{"kind":"decide","at_s":108.0}',
        '{"kind":"withdraw","ticket":2}',
        '{"kind":"expire","ticket":4}',
    )
    assert [arrival.at_s for arrival in found] == [0.0, 1.0, 3.0, 4.0]
    assert [arrival.prompt_tokens for arrival in found] == [77, 50, 50, 50]
    # What is not known is taken to be the mean, within the limit.
    assert [arrival.output_tokens for arrival in found] == [33, 33, 20, 33]
    assert [arrival.leaves_after_s for arrival in found] == [None, 6.0, None, None]
    assert {arrival.deadline_s for arrival in found} == {30.0}
    assert {arrival.queue_timeout_s for arrival in found} == {60.0}
    with pytest.raises(Malformed, match="line 3: ticket was never submitted, but 9"):
        arrivals(tmp_path, *RECORDED, '{"kind":"withdraw","ticket":9}')


# Descriptions


def test_a_description_and_a_seed_are_a_trace() -> None:
    text = "poisson:rate=5,duration=200,model=llama3.2:3b,prompt=200,output=150,tenants=10,deadline=30"
    found = synthesise(text, 1)
    assert found == synthesise(text, 1)
    assert found != synthesise(text, 2)
    assert 850 < len(found) < 1150
    assert [arrival.at_s for arrival in found] == sorted(arrival.at_s for arrival in found)
    assert len({arrival.tenant for arrival in found}) == 10
    assert 180 < sum(arrival.prompt_tokens for arrival in found) / len(found) < 220
    assert 135 < sum(arrival.output_tokens for arrival in found) / len(found) < 165
    assert {arrival.deadline_s for arrival in found} == {30.0}
    exact = synthesise("poisson:rate=5,duration=20,model=m,prompt=7,output=0,spread=0", 1)
    assert {(arrival.prompt_tokens, arrival.output_tokens) for arrival in exact} == {(7, 0)}


def test_bursts_and_days_come_when_they_should() -> None:
    burst = synthesise("burst:rate=1,peak=50,every=20,lasting=2,duration=100,model=m", 3)
    within = sum(arrival.at_s % 20 < 2 for arrival in burst)
    assert 400 < within < 600
    assert 60 < len(burst) - within < 120
    day = synthesise("diurnal:rate=0,peak=40,every=100,duration=100,model=m", 3)
    assert 1700 < len(day) < 2300
    assert sum(25 <= arrival.at_s < 75 for arrival in day) > 0.75 * len(day)


def test_descriptions_come_together() -> None:
    found = synthesise("poisson:rate=3,duration=30,model=a+poisson:rate=3,start=15,duration=30,model=b", 1)
    assert [arrival.at_s for arrival in found] == sorted(arrival.at_s for arrival in found)
    assert min(arrival.at_s for arrival in found if arrival.model == "b:latest") >= 15
    assert {arrival.model for arrival in found} == {"a:latest", "b:latest"}


def test_conversations_and_favourites() -> None:
    found = synthesise("poisson:rate=3,duration=60,model=a,turns=4,think=2,tenants=5,skew=2,leave=9", 1)
    turns = Counter(arrival.conversation for arrival in found)
    assert set(turns.values()) == {4}
    one = [arrival for arrival in found if arrival.conversation == found[0].conversation]
    assert [turn.prompt_tokens for turn in one] == sorted(turn.prompt_tokens for turn in one)
    assert len({turn.tenant for turn in one}) == 1
    tenants = Counter(arrival.tenant for arrival in found).most_common()
    assert tenants[0][0] == "tenant-0"
    assert tenants[0][1] > 2 * tenants[1][1]
    assert all(arrival.leaves_after_s is not None for arrival in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("poisson:", "poisson: rate is missing"),
        ("poisson:rate=5", "poisson: model is missing"),
        ("poisson:rate=x,model=m", "poisson: rate is not a number, but 'x'"),
        ("poisson:rate=1,rate=1,model=m", "poisson: rate is there twice"),
        ("poisson:rate=1,model=m,speed=3", "poisson: speed is not known here"),
        ("poisson:rate=1,model", "poisson: 'model' is not name=value"),
        ("burst:rate=5,model=m", "burst: peak is missing"),
        ("burst:rate=5,peak=4,model=m", "burst: peak is not from 5 to 100000, but 4"),
        ("poisson:rate=1,model=m+weekly:rate=1", "'weekly' is not one of poisson, burst, diurnal"),
        ("poisson:rate=inf,model=m", "poisson: rate is not a number, but inf"),
    ],
)
def test_a_mistake_in_a_description_is_named(text: str, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        synthesise(text, 0)


# Prompts


def arrival(prompt_tokens: int, output_tokens: int = 10, **changes: object) -> Arrival:
    values: dict[str, object] = {"at_s": 0.0, "model": "m:latest", "conversation": "c"}
    return Arrival(prompt_tokens=prompt_tokens, output_tokens=output_tokens, **(values | changes))  # type: ignore[arg-type]


def test_a_conversation_begins_with_what_was_said() -> None:
    prompts = Prompts()
    first, second = prompts.of(0, arrival(50)), prompts.of(1, arrival(100))
    assert second.blocks[:2] == (*first.blocks, Block(first.answer_key, 10))
    assert sum(block.token_count for block in second.blocks) == 100
    assert [prefix.token_count for prefix in second.prefixes] == [100, 60, 50]
    assert first.prefixes[0] == second.prefixes[-1]
    cut = prompts.of(2, arrival(70))  # Less than was said: something was left out.
    assert [block.token_count for block in cut.blocks] == [70]
    assert not {prefix.key for prefix in cut.prefixes} & {prefix.key for prefix in second.prefixes}
    other = prompts.of(3, arrival(100, conversation="d"))
    assert other.blocks[0].key != first.blocks[0].key


def test_prefixes_that_are_given_are_the_prompt() -> None:
    prefixes = (Prefix(key="b", token_count=90), Prefix(key="a", token_count=50))
    prompt = Prompts().of(4, arrival(100, conversation="", prefixes=prefixes))
    assert prompt.prefixes == prefixes
    assert [(block.key, block.token_count) for block in prompt.blocks][:2] == [("a", 50), ("b", 40)]
    assert prompt.blocks[2].token_count == 10


# Fleets and goals

FLEET = """
[[instances]]
name = "big"
count = 2
slots = 8
vram_gib = 80

[[instances]]
slots = 2
vram_gib = 24
speed = 0.5

[models."Tiny"]
vram_gib = 4
load_s = 2
prefill_tokens_per_s = 1000
token_s = 0.01
batch_cost = 0.25

[policy]
waiting_max = 7
wait_share_max = 0.4
weights = { a = 2.0 }
"""


def fleet(tmp_path: Path, text: str, name: str = "fleet.toml") -> FleetSpec:
    path = tmp_path / name
    path.write_text(text)
    return read_fleet(path)


def test_a_fleet_is_what_its_file_says(tmp_path: Path) -> None:
    spec = fleet(tmp_path, FLEET)
    machines = spec.machines()
    assert [machine.name for machine, _ in machines] == ["big-0", "big-1", "gpu1-0"]
    assert [machine.parallel for machine, _ in machines] == [8, 8, 2]
    assert machines[0][0].vram_bytes == 80 * GIB
    assert [models["tiny:latest"].token_s for _, models in machines] == [0.01, 0.01, 0.02]
    assert machines[2][1]["tiny:latest"].load_s == 4.0
    assert (spec.policy.waiting_max, spec.policy.wait_share_max, spec.policy.weight("a")) == (7, 0.4, 2.0)
    one = FLEET.replace("[[instances]]\nslots = 2\nvram_gib = 24\nspeed = 0.5", "")
    assert fleet(tmp_path, one).with_instances(12).machines()[-1][0].name == "big-11"
    with pytest.raises(Malformed, match="one kind"):
        spec.with_instances(3)
    as_json = json.dumps({"instances": [{"vram_gib": 8}], "models": {"m": MODEL}})
    assert fleet(tmp_path, as_json, "fleet.json").instance_count == 1


MODEL = {"vram_gib": 1, "load_s": 1, "prefill_tokens_per_s": 1, "token_s": 1}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({}, "fleet: instances is missing"),
        ({"instances": [{}]}, r"instances\[0\]: vram_gib is missing"),
        ({"instances": [{"vram_gib": 1, "slots": 0}]}, r"instances\[0\]: slots is not from 1 to 1024, but 0"),
        ({"instances": [{"vram_gib": 1, "gpus": 2}]}, r"instances\[0\]: gpus is not known here"),
        ({"instances": [{"vram_gib": 1}]}, "fleet: models is missing"),
        ({"instances": [{"vram_gib": 1}], "models": {"m": {}}}, "fleet.models.m: vram_gib is missing"),
        (
            {"instances": [{"vram_gib": 1}], "models": {"m": MODEL}, "policy": {"waiting": 3}},
            "fleet.policy: waiting is not known here",
        ),
        (
            {"instances": [{"vram_gib": 1}], "models": {"m": MODEL}, "policy": {"waiting_max": 0.5}},
            "fleet.policy: waiting_max is not a whole number",
        ),
        ({"instances": [{"vram_gib": 1, "name": "a"}] * 2}, "instances has two of one name"),
        ({"instances": [{"vram_gib": 1}], "models": {"m": MODEL}, "model": {}}, "fleet: model is not known"),
    ],
)
def test_a_mistake_in_a_fleet_is_named(found: object, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        parse_fleet(found)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match=r"fleet\.toml: is not TOML"):
        fleet(tmp_path, "[[")
    with pytest.raises(Malformed, match=r"fleet\.json: is not JSON"):
        fleet(tmp_path, "{", "fleet.json")


def test_goals_and_sweeps() -> None:
    assert parse_goal("p95_s=10,refused=0.01") == {"p95_s": 10.0, "refused": 0.01}
    assert parse_goal("") == {}
    assert list(parse_sweep("2..4")) == [2, 3, 4]
    for text in ("4..2", "1-3", "0..2", "a..b", "..", "1.."):
        with pytest.raises(Malformed, match=r"is not such as 1\.\.8"):
            parse_sweep(text)
    with pytest.raises(Malformed, match="more than 1000"):
        parse_sweep("1..1001")
    with pytest.raises(Malformed, match="'speed' is not one of"):
        parse_goal("speed=3")
    with pytest.raises(Malformed, match="p95_s is not a number, but 'x'"):
        parse_goal("p95_s=x")
