"""Requests have the same canonical form if the weights cannot tell them apart, and otherwise never."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.admission import Order
from services.inference.core.asks import Ask, Chat, Embed, Generate, Message, Options, Role, Tool, ToolCall
from services.inference.core.caching import may_keep, may_look
from services.inference.core.callers import CachePolicy
from services.inference.core.canonical import canonical, is_deterministic
from services.inference.core.options import Value

DIGEST = "sha256:1"
COLD = Options(temperature=0.0)
text = st.text(max_size=6)
messages = st.builds(
    Message,
    role=st.sampled_from(Role),
    content=text,
    thinking=text,
    images=st.lists(st.binary(max_size=3), max_size=2).map(tuple),
    tool_name=text,
    tool_call_id=text,
)
options = st.builds(
    Options,
    temperature=st.none() | st.floats(0, 2),
    seed=st.none() | st.integers(0, 3),
    stop=st.lists(text, max_size=2).map(tuple),
)
chats = st.builds(
    Chat,
    model=st.just("tiny"),
    messages=st.lists(messages, min_size=1, max_size=3).map(tuple),
    options=options,
    think=st.none() | st.booleans() | st.sampled_from(["low", "high"]),
)
embeds = st.builds(
    Embed,
    model=st.just("tiny"),
    inputs=st.lists(text, min_size=1, max_size=3).map(tuple),
    truncate=st.booleans(),
    dimension_count=st.none() | st.integers(1, 3),
)


def form(ask: Ask, *, digest: str = DIGEST, **options: Value) -> bytes:
    order = Order(ask=ask, model="tiny:latest", options=options, keep_alive_s=1)
    return canonical(order, model_digest=digest)


@given(chats | embeds, chats | embeds)
def test_the_same_form_means_the_same_request(one: Chat | Embed, other: Chat | Embed) -> None:
    assert (form(one) == form(other)) is (repr(one) == repr(other))  # For -0.0 equals 0.0.


FULL = Chat(
    model="tiny",
    messages=(Message(role=Role.USER, content="hello"),),
    tools=(Tool(name="t", description="d", parameters_json="{}"),),
    format_json='"json"',
    options=COLD,
    think=True,
    logprobs=True,
    top_logprob_count=2,
    keep_alive_s=3.0,
    conversation_id="c",
)
OTHERWISE: dict[str, object] = {
    "messages": (Message(role=Role.USER, content="hello!"),),
    "tools": (),
    "format_json": None,
    "options": Options(),
    "think": False,
    "logprobs": False,
    "top_logprob_count": 1,
}
HINTS: dict[str, object] = {"model": "alias", "keep_alive_s": None, "conversation_id": ""}


@pytest.mark.parametrize("name", OTHERWISE)
def test_all_that_changes_an_answer_counts(name: str) -> None:
    assert form(replace(FULL, **{name: OTHERWISE[name]})) != form(FULL)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", HINTS)
def test_hints_do_not(name: str) -> None:
    assert form(replace(FULL, **{name: HINTS[name]})) == form(FULL)  # type: ignore[arg-type]


def test_every_field_is_one_or_the_other() -> None:
    assert {one.name for one in fields(Chat)} == OTHERWISE.keys() | HINTS.keys()


def test_weights_and_options_count() -> None:
    assert form(FULL, digest="sha256:2") != form(FULL)
    assert form(FULL, num_ctx=1024) != form(FULL, num_ctx=2048)
    assert form(FULL, num_ctx=1024, seed=1) == form(FULL, seed=1, num_ctx=1024)


def test_texts_do_not_run_into_each_other() -> None:
    def of(*contents: str) -> bytes:
        return form(
            Chat(model="tiny", messages=tuple(Message(role=Role.USER, content=text) for text in contents))
        )

    assert of("a', content='b") != of("a", "b")
    assert form(Embed(model="t", inputs=("a", "b"))) != form(Embed(model="t", inputs=("a', 'b",)))
    assert of("\ud800") != of("?")  # A lone surrogate is no reason to fail.


@pytest.mark.parametrize(
    ("given", "deterministic"),
    [
        (Options(), False),
        (Options(temperature=0.0), True),
        (Options(temperature=-0.0), True),
        (Options(temperature=0.7), False),
        (Options(temperature=0.7, seed=0), True),
        (Options(seed=4), True),
        (Options(seed=-1), False),  # Ollama draws one.
    ],
)
def test_what_is_deterministic(given: Options, *, deterministic: bool) -> None:
    ask = replace(FULL, options=given, tools=(), logprobs=False)
    assert is_deterministic(ask) is deterministic
    assert may_look(ask, CachePolicy.DETERMINISTIC) is deterministic
    assert may_look(ask, CachePolicy.ALWAYS)
    assert not may_look(ask, CachePolicy.NEVER)


@pytest.mark.parametrize("policy", CachePolicy)
def test_tools_and_log_probabilities_are_never_cached(policy: CachePolicy) -> None:
    assert not may_look(replace(FULL, tools=()), policy)
    assert not may_look(replace(FULL, logprobs=False), policy)
    assert not may_look(Generate(model="tiny", prompt="a", options=COLD, logprobs=True), policy)


def test_texts_with_images_may_be() -> None:
    assert may_look(
        Generate(model="tiny", prompt="a", options=COLD, images=(b"x",)), CachePolicy.DETERMINISTIC
    )


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_what_may_be_kept(stopped: bool, called: bool, has_logprobs: bool, moved: bool) -> None:  # noqa: FBT001
    kept = may_keep(
        stopped=stopped,
        called_tools=called,
        has_logprobs=has_logprobs,
        asked_of=DIGEST,
        answered_by="sha256:2" if moved else DIGEST,
    )
    assert kept is (stopped and not called and not has_logprobs and not moved)


def test_tool_calls_of_the_past_are_part_of_a_request() -> None:
    call = ToolCall(name="clock", arguments_json="{}")
    said = Message(role=Role.ASSISTANT, content="", tool_calls=(call,))
    other = replace(said, tool_calls=(replace(call, arguments_json='{"a":1}'),))
    assert form(replace(FULL, messages=(said,))) != form(replace(FULL, messages=(other,)))
