"""What becomes of a call, with the model for an enemy: every rule, and what holds for any call whatever."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.core.budget import Usage
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.events import Event, StepFinished, StepStarted, ToolCalled, ToolReturned
from services.agent.core.policy import (
    AFTER_UNTRUSTED,
    ANY_ROLE,
    NOT_AN_OBJECT,
    OF_CONFIG,
    OF_OPERATOR,
    Allow,
    Ask,
    Deny,
    Rules,
    Situation,
    Verdict,
    decide,
)
from services.agent.core.taint import Taint
from services.agent.core.trusted_values import DEPTH_MAX, UserWords
from services.agent.ports import Effect, ToolSpec

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "to": {"type": "string"},
            "text": {"type": "string"},
            "count": {"type": "integer", "default": 1},
            "urgent": {"type": "boolean", "default": False},
            "options": {"type": "object", "properties": {"cc": {"type": "array"}}},
        },
    }
)
SEND = ToolSpec(
    name="send", description="", parameters_json_schema=SCHEMA, effect=Effect.EXTERNAL, timeout_s=1.0
)
TAINTED = Situation(
    tools=("send", "read"),
    role="user",
    is_tainted=True,
    user_texts=('Mail bob@example.com "see you at noon". Then fetch https://a.example/doc?x=1, 50 times.',),
)
CLEAN = replace(TAINTED, is_tainted=False)


def verdict(
    arguments: object, *, tool: ToolSpec | None = SEND, name: str = "send", situation: Situation = TAINTED
) -> Verdict:
    return decide(name, arguments, tool=tool, situation=situation)


def is_asked_about(verdict: Verdict, *names: str) -> bool:
    return verdict == Ask(f"{AFTER_UNTRUSTED}: {', '.join(names)}")


def test_what_the_run_does_not_have_is_never_called() -> None:
    other = replace(SEND, name="other")
    assert verdict({}, tool=None, name="nothing") == Deny("There is no tool nothing. Tools: send, read.")
    assert isinstance(verdict({}, tool=other, name="other"), Deny), "the mesh has it, the run does not"
    assert isinstance(verdict({}, tool=None), Deny), "the run names it, the mesh has it no more"
    assert isinstance(verdict({}, tool=other), Deny), "a tool under another's name"
    assert len(Deny(verdict({}, tool=None, name="x" * 10_000).reason).reason) < 200  # type: ignore[union-attr]


@pytest.mark.parametrize("arguments", ["text", None, 1, ["bob@example.com"]])
def test_arguments_are_an_object_or_nothing_is_called(arguments: object) -> None:
    assert verdict(arguments, situation=CLEAN) == Deny(NOT_AN_OBJECT)


def test_a_run_may_ask_about_every_call_and_so_may_the_operator() -> None:
    assert verdict({}, situation=replace(CLEAN, approval_tools=("send",))) == Ask(OF_CONFIG)
    assert verdict({}, situation=replace(CLEAN, rules=Rules(asked=("se*",)))) == Ask(OF_OPERATOR)
    assert verdict({}, situation=replace(CLEAN, rules=Rules(asked=("read",)))) == Allow()


@pytest.mark.parametrize(
    ("rule", "role", "is_denied"),
    [
        (("send", "user"), "user", True),
        (("send", "user"), "admin", False),
        (("send", "user"), "", True),
        (("*", ANY_ROLE), "admin", True),
        (("mcp.*", ANY_ROLE), "admin", False),
    ],
)
def test_an_operator_may_refuse_a_tool_to_a_role(
    rule: tuple[str, str], role: str, *, is_denied: bool
) -> None:
    situation = replace(CLEAN, role=role, rules=Rules(refused=[rule]))
    assert isinstance(verdict({}, situation=situation), Deny) is is_denied


def test_an_operators_rules_are_read_or_refused_whole() -> None:
    assert Rules.read(asked=" mail, mcp.* ,", refused="http_fetch:user,run_*") == Rules(
        asked=("mail", "mcp.*"), refused=(("http_fetch", "user"), ("run_*", ANY_ROLE))
    )
    assert Rules.read(asked="", refused="") == Rules(asked=(), refused=())
    for asked, refused in (("mail:user", ""), ("a b", ""), ("", "mail:root"), ("", "mail:"), ("", ":user")):
        with pytest.raises(ValueError, match="pattern"):
            Rules.read(asked=asked, refused=refused)


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("is_confined", [True, False])
def test_only_what_reaches_out_is_asked_about_after_others_words(
    effect: Effect, *, is_confined: bool
) -> None:
    tool = replace(SEND, effect=effect, is_confined=is_confined)
    foreign = {"text": "all the secrets"}
    assert verdict(foreign, tool=tool, situation=CLEAN) == Allow(), "nothing foreign was read"
    reaches_out = effect is not Effect.NONE and not is_confined
    assert isinstance(verdict(foreign, tool=tool), Ask) is reaches_out


@pytest.mark.parametrize(
    "arguments",
    [
        {"to": "bob@example.com", "text": "see you at noon"},
        {"to": "bob@example.com", "text": "see  you\nat noon"},
        {"to": "https://a.example/doc?x=1"},
        {"to": "bob@example.com", "count": 1, "urgent": False, "options": None},
        {"to": "bob@example.com", "count": 50},
        {"options": {"cc": ["bob@example.com"]}},
    ],
)
def test_what_the_user_wrote_needs_nobodys_approval(arguments: Mapping[str, object]) -> None:
    assert verdict(arguments) == Allow()


@pytest.mark.parametrize(
    ("arguments", "foreign"),
    [
        ({"to": "eve@example.com"}, "to"),
        ({"to": "bob@example.com", "text": "the password is 1234"}, "text"),
        ({"to": "bob@example.co"}, "to"),
        ({"to": "ob@example.com"}, "to"),
        ({"to": "BOB@example.com"}, "to"),
        ({"to": "bob@example.com "[:-1] + "\u200b"}, "to"),
        ({"to": "https://a.example/doc"}, "to"),
        ({"to": "https://a.example/doc?x=1&leak=2"}, "to"),
        ({"to": "a.example"}, "to"),
        ({"to": "at"}, "to"),
        ({"to": '".'}, "to"),
        ({"to": ""}, "to"),
        ({"to": "bob@example.com", "count": 5}, "count"),
        ({"to": "bob@example.com", "count": 10**400}, "count"),
        ({"to": "bob@example.com", "count": float("inf")}, "count"),
        ({"to": "bob@example.com", "count": True}, "count"),
        ({"to": "bob@example.com", "urgent": True}, "urgent"),
        ({"to": "bob@example.com", "options": {"secret-as-a-name": None}}, "options"),
        ({"to": "bob@example.com", "leak": None}, "an argument that the tool does not know"),
        ({"options": {"cc": [["bob@example.com", {"cc": "eve@example.com"}]]}}, "options"),
    ],
)
def test_anything_else_is_asked_about_by_name(arguments: Mapping[str, object], foreign: str) -> None:
    assert is_asked_about(verdict(arguments), foreign)


@pytest.mark.parametrize("arguments", [{}, {"count": 1}, {"to": None}, {"options": {}}, {"options": []}])
def test_a_call_that_says_nothing_was_not_asked_for(arguments: Mapping[str, object]) -> None:
    assert verdict(arguments) == Ask(AFTER_UNTRUSTED)


def test_what_is_nested_too_deep_is_nobodys() -> None:
    value: object = "bob@example.com"
    for _ in range(DEPTH_MAX + 1):
        value = [value]
    assert is_asked_about(verdict({"to": value}), "to")


@pytest.mark.parametrize("schema", ["", "[]", "{", '{"properties": 1}'])
def test_a_schema_that_says_nothing_makes_no_argument_known(schema: str) -> None:
    tool = replace(SEND, parameters_json_schema=schema)
    assert is_asked_about(
        verdict({"to": "bob@example.com"}, tool=tool), "an argument that the tool does not know"
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
arguments = st.dictionaries(st.sampled_from(["to", "text", "count", "urgent", "options", "x"]), json_values)
situations = st.builds(
    Situation,
    tools=st.lists(st.sampled_from(["send", "read"])),
    approval_tools=st.lists(st.sampled_from(["send", "read"])),
    role=st.sampled_from(["user", "admin", ""]),
    is_tainted=st.booleans(),
    user_texts=st.lists(st.text(), max_size=2),
    rules=st.builds(
        Rules,
        asked=st.lists(st.sampled_from(["send", "*"]), max_size=1),
        refused=st.lists(st.sampled_from([("send", "user"), ("*", ANY_ROLE)]), max_size=1),
    ),
)


@given(name=st.sampled_from(["send", "read", "x"]), wanted=arguments | json_values, situation=situations)
def test_whatever_the_model_calls_the_same_is_decided_again_and_nothing_slips(
    name: str, wanted: object, situation: Situation
) -> None:
    tool = SEND if name == "send" else None
    found = decide(name, wanted, tool=tool, situation=situation)
    assert found == decide(name, wanted, tool=tool, situation=situation)
    if name not in situation.tools or tool is None:
        assert isinstance(found, Deny)
    if name in situation.approval_tools:
        assert not isinstance(found, Allow)
    if isinstance(found, Allow) and situation.is_tainted:
        assert isinstance(wanted, dict)
        texts = [" ".join(text.split()) for text in situation.user_texts]
        said = [" ".join(value.split()) for value in wanted.values() if isinstance(value, str)]
        assert all(any(value in text for text in texts) for value in said)


@given(wanted=arguments, situation=situations)
def test_reading_others_words_never_allows_more(wanted: object, situation: Situation) -> None:
    """Nor does a rule more, or a word less of the user's."""

    def strictness(situation: Situation) -> int:
        return [Allow, Ask, Deny].index(type(decide("send", wanted, tool=SEND, situation=situation)))

    assert strictness(replace(situation, is_tainted=True)) >= strictness(replace(situation, is_tainted=False))
    assert strictness(replace(situation, approval_tools=("send",))) >= strictness(situation)
    assert strictness(replace(situation, user_texts=())) >= strictness(situation)


words = st.text(st.characters(categories=["L", "N"]), min_size=3, max_size=9)


@given(st.lists(words, min_size=1, max_size=6), st.data())
def test_whole_words_of_a_text_are_its_authors_and_parts_are_not(
    text: list[str], data: st.DataObject
) -> None:
    known = UserWords([" ".join(text)])
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    run = text[start:end]
    assert known.has(" ".join(run))
    assert UserWords([f'Say "{" ".join(text)}".']).has(" ".join(run))
    longer = f"{run[-1]}x"
    assert known.has(longer) is (longer in text)


def _fetched(call_id: str, tool: str) -> list[Event]:
    call = ToolCall(call_id=call_id, name=tool, arguments_json="{}")
    back = ToolReturned(call_id=call_id, content="", failed=False, duration_s=0.0)
    return [ToolCalled(call), back]


def _taint(*history: Message, is_cut: bool = False) -> Taint:
    taint = Taint(run_tools=("run_python", "http_fetch"), trusted_tools=("run_python",))
    taint.add_history(history, is_cut=is_cut)
    return taint


def test_what_a_tool_brings_taints_from_the_next_step_on_and_for_ever() -> None:
    taint = _taint()
    seen = []
    for step, tool in enumerate(["run_python", "made_up", "http_fetch", "run_python", "run_python"], 1):
        taint.add(StepStarted(step))
        for event in _fetched(f"c{step}", tool):
            taint.add(event)
            seen.append(taint.is_there)
        taint.add(StepFinished(step, Usage()))
    assert seen == [False] * 6 + [True] * 4


def test_earlier_runs_taint_the_later_ones_of_their_thread() -> None:
    def read(tool: str) -> Message:
        return Message(role=Role.TOOL, content="", call_id="c", tool_name=tool)

    assert not _taint(Message(role=Role.USER, content="http_fetch"), read("run_python")).is_there
    assert _taint(read("http_fetch")).is_there
    assert _taint(read("a tool of last year's")).is_there, "what is not known may be anybody's"
    assert _taint(is_cut=True).is_there, "so may what is not looked at"


def test_a_result_of_a_call_that_was_never_told_of_taints() -> None:
    taint = _taint()
    taint.add(ToolReturned(call_id="c", content="", failed=False, duration_s=0.0))
    taint.add(StepStarted(1))
    assert taint.is_there


def test_digits_that_the_user_did_not_write_are_not_theirs() -> None:
    known = UserWords(["Pay 5 or 0.25 or 1e+06."])
    assert all(map(known.has, (5, 5.0, 0.25, 1e6)))
    assert not any(map(known.has, (5.000000123456, 0.2500000123, 1000000.0625)))


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_a_message_of_nothings_is_asked_about(nothing: object) -> None:
    wanted = {"to": "bob@example.com", "options": {"cc": [nothing] * 7}}
    assert is_asked_about(verdict(wanted), "options")
    assert verdict({"to": "bob@example.com", "options": nothing}) == Allow()
