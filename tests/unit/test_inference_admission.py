"""What is refused before anybody waits, and what an instance is told of what is accepted."""

from unicodedata import combining, normalize

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.common.errors import InvalidRequest
from services.inference.core.admission import Order, admit
from services.inference.core.asks import Ask, Chat, Embed, Generate, Message, Options, Role, Tool
from services.inference.core.bounds import Bounds, check
from services.inference.core.catalog import Catalog, KeepAlive, ModelConfig
from services.inference.core.ledger import Card, InstanceView, Ledger, Report, Resident
from services.inference.core.options import canonical
from services.inference.errors import ContextTooLarge, ModelNotFound, ModelUnsuitable, NoInstance

RUNNER_OPTIONS = {
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
}


def user(text: str, **more: object) -> Message:
    return Message(role=Role.USER, content=text, **more)  # type: ignore[arg-type]


def chat(text: str = "hello", *, model: str = "tiny", **more: object) -> Chat:
    return Chat(model=model, messages=(user(text),), **more)  # type: ignore[arg-type]


def ledger(*capabilities: str, unready_reason: str = "", context_token_count: int = 0) -> Ledger:
    made = Ledger()
    residents = (
        [Resident(name="tiny", context_token_count=context_token_count)] if context_token_count else []
    )
    report = Report(
        cards=(Card(name="tiny:latest", capabilities=frozenset(capabilities)),), residents=tuple(residents)
    )
    made.observe(InstanceView(name="gpu", slots=4, report=report, unready_reason=unready_reason))
    return made


def admitted(
    ask: Ask, known: Ledger | None = None, catalog: Catalog | None = None, *, tenant: str = "org-1"
) -> Order:
    return admit(ask, tenant=tenant, ledger=known or ledger(), bounds=Bounds(), catalog=catalog or Catalog())


def broken_fields(ask: Ask, bounds: Bounds | None = None) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        check(ask, bounds or Bounds())
    return [violation.field for violation in refused.value.violations]


# Bounds


@pytest.mark.parametrize(
    "text",
    ["x", "x" * 10_000, "é" * 10_000, "e\u0301" * 10_000, "\N{ROCKET}" * 10_000, "\0"],
    ids=["one", "most", "composed", "decomposed", "emoji", "NUL"],
)
def test_prompts_within_bounds(text: str) -> None:
    check(chat(text), Bounds())
    check(Generate(model="tiny", prompt=text), Bounds())


@pytest.mark.parametrize(
    "text",
    ["", "x" * 10_001, "é" * 10_001, "e\u0301" * 10_001, "x" * 1_000_000],
    ids=["empty", "ASCII", "composed", "decomposed", "huge"],
)
def test_prompts_out_of_bounds(text: str) -> None:
    assert broken_fields(chat(text)) == ["messages[0].content"]
    assert broken_fields(Generate(model="tiny", prompt=text)) == ["prompt"]


def test_a_pile_of_marks_is_refused_before_it_is_sorted() -> None:
    """Normalising it would take time quadratic in its length."""
    assert broken_fields(chat("a" + "\u0316\u0315" * 10_000)) == ["messages[0].content"]
    check(chat("a" + "\u0301" * 30), Bounds())


def test_only_what_users_say_is_bounded_and_an_image_may_say_it_all() -> None:
    system = Message(role=Role.SYSTEM, content="x" * 20_000)
    check(Chat(model="tiny", messages=(system, user("", images=(b"png",)))), Bounds())


@given(st.text(max_size=60))
def test_length_is_counted_after_composition(text: str) -> None:
    assume(text)
    assume(sum(map(bool, map(combining, text))) <= 30)
    length = len(normalize("NFC", text))
    check(chat(text), Bounds(prompt_code_points_max=length))
    assert broken_fields(chat(text), Bounds(prompt_code_points_max=length - 1))


@pytest.mark.parametrize("temperature", [-0.1, 1.01, 1.5, float("nan"), float("inf")])
def test_temperatures_out_of_policy(temperature: float) -> None:
    assert broken_fields(chat(options=Options(temperature=temperature))) == ["options.temperature"]


def test_policy_can_be_raised() -> None:
    check(chat(options=Options(temperature=1.5)), Bounds(temperature_max=2))


def test_every_broken_bound_is_named() -> None:
    ask = Chat(
        model="tiny",
        messages=(user(""), user("x" * 10_001), user("fine")),
        options=Options(temperature=3, output_token_count_max=10_000),
    )
    assert broken_fields(ask) == [
        "messages[0].content",
        "messages[1].content",
        "options.temperature",
        "options.output_token_count_max",
    ]


# Options

floats = st.none() | st.floats(0, 1)
integers = st.none() | st.integers(0, 1000)
some_options = st.builds(
    Options,
    temperature=floats,
    top_p=floats,
    min_p=floats,
    top_k=integers,
    seed=integers,
    output_token_count_max=st.none() | st.integers(1, 8192),
    stop=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    context_token_count=st.none() | st.integers(1, 4096),
)


@given(some_options, some_options)
def test_nothing_a_caller_says_reloads_a_model(one: Options, other: Options) -> None:
    config = ModelConfig(context_token_count=4096, runner={"num_gpu": 99, "use_mmap": False})
    catalog = Catalog(models={"tiny:latest": config})
    sent = [admitted(chat(options=options), catalog=catalog).options for options in (one, other)]
    sent.append(admitted(Embed(model="tiny", inputs=("x",)), catalog=catalog).options)
    runner = [{name: value for name, value in options.items() if name in RUNNER_OPTIONS} for options in sent]
    assert runner == [catalog.runner("tiny:latest")] * 3
    assert runner[0] == {"num_ctx": 4096, "num_gpu": 99, "use_mmap": False}


@given(some_options)
def test_the_length_of_an_answer_is_always_bounded(options: Options) -> None:
    sent = canonical(options, bounds=Bounds(), runner={})
    assert sent["num_predict"] == (options.output_token_count_max or 8192)
    assert None not in sent.values()


def test_the_same_request_is_the_same_bytes() -> None:
    texts = {repr(canonical(Options(temperature=zero), bounds=Bounds(), runner={})) for zero in (-0.0, 0.0)}
    assert len(texts) == 1


# Models


def test_an_order_knows_its_model_by_its_key() -> None:
    order = admitted(chat(model="library/Tiny"))
    assert order.model == "tiny:latest"


def test_a_model_that_nobody_has_is_refused_at_once() -> None:
    with pytest.raises(ModelNotFound) as refused:
        admitted(chat(model="huge"))
    assert refused.value.facts == {"model": "huge"}


def test_while_nobody_is_ready_nobody_can_say_what_there_is() -> None:
    for known in (Ledger(), ledger(unready_reason="it does not answer")):
        for model in ("tiny", "huge"):
            with pytest.raises(NoInstance):
                admitted(chat(model=model), known)


@pytest.mark.parametrize(
    ("ask", "missing"),
    [
        (Embed(model="tiny", inputs=("x",)), "embedding"),
        (chat(tools=(Tool(name="t", description="", parameters_json=""),)), "tools"),
        (chat(think="high"), "thinking"),
        (Chat(model="tiny", messages=(user("see", images=(b"png",)),)), "vision"),
        (Generate(model="tiny", prompt="see", images=(b"png",)), "vision"),
        (Generate(model="tiny", prompt="def", suffix="return"), "insert"),
    ],
)
def test_a_model_that_cannot_is_refused_at_once(ask: Ask, missing: str) -> None:
    with pytest.raises(ModelUnsuitable) as refused:
        admitted(ask, ledger("completion"))
    assert refused.value.facts["capability"] == missing
    admitted(ask, ledger())  # An instance that does not say what its models can do is asked.


def test_thinking_can_be_switched_off_where_there_is_none() -> None:
    admitted(chat(think=False), ledger("completion"))


def test_an_embedding_model_does_not_chat() -> None:
    with pytest.raises(ModelUnsuitable):
        admitted(chat(), ledger("embedding"))


SMALL = ModelConfig(context_token_count=4096)


@pytest.mark.parametrize(
    ("catalog", "known"),
    [
        (Catalog(models={"tiny:latest": SMALL}), ledger(context_token_count=9999)),
        (Catalog(otherwise=SMALL), ledger()),
        (Catalog(models={"other:latest": SMALL}), ledger(context_token_count=4096)),
    ],
    ids=["of the model", "of all models", "as loaded"],
)
def test_a_context_that_does_not_fit_is_refused_with_both_numbers(catalog: Catalog, known: Ledger) -> None:
    admitted(chat(options=Options(context_token_count=4096)), known, catalog)
    with pytest.raises(ContextTooLarge) as refused:
        admitted(chat(options=Options(context_token_count=4097)), known, catalog)
    assert refused.value.facts == {"asked_token_count": "4097", "allowed_token_count": "4096"}


# What the scheduler is told


def test_how_long_a_model_stays_is_a_hint_within_bounds() -> None:
    hints = (None, 0.0, 10.0, 120.0, 90_000.0, -1.0)
    found = [admitted(chat(keep_alive_s=hint)).keep_alive_s for hint in hints]
    assert found == [300, 60, 60, 120, 3600, 3600]
    embed = Embed(model="tiny", inputs=("x",), keep_alive_s=0)
    assert admitted(embed).keep_alive_s == 60


def test_no_hint_shortens_what_a_models_configuration_says() -> None:
    catalog = Catalog(
        models={"tiny:latest": ModelConfig(keep_alive_s=7200)}, keep_alive=KeepAlive(max_s=3600)
    )
    found = [
        admitted(chat(keep_alive_s=hint), catalog=catalog).keep_alive_s for hint in (None, 0.0, 600.0, -1.0)
    ]
    assert found == [7200] * 4


def test_the_callers_own_limit_is_told_and_no_other() -> None:
    assert admitted(chat(options=Options(output_token_count_max=7))).output_token_max == 7
    assert admitted(chat()).output_token_max == 0
