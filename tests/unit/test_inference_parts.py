"""What the scheduler knows of a prompt: about how long it is, and which beginnings it shares with another."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.asks import Ask, Chat, Embed, Generate, Message, Role, Tool, ToolCall
from services.inference.core.parts import IMAGE_TOKENS, MESSAGE_TOKENS, PART_TOKENS, parts, prefixes
from services.inference.core.prefixes import Prefix

LOOK = Tool(name="look", description="Looks.", parameters_json="{}")


def found(ask: Ask, *, tenant: str = "org-1", model: str = "tiny:latest") -> tuple[Prefix, ...]:
    return prefixes(ask, tenant, model, parts(ask))


def total(ask: Ask) -> int:
    return sum(token_count for _, token_count in parts(ask))


def conversation(*texts: str, **more: object) -> Chat:
    roles = (Role.USER, Role.ASSISTANT)
    messages = (Message(role=roles[place % 2], content=text) for place, text in enumerate(texts))
    return Chat(model="tiny", messages=tuple(messages), **more)  # type: ignore[arg-type]


def shared(one: Ask, other: Ask, **whose: str) -> int:
    """How many tokens the second may find read by the first."""
    keys = {prefix.key for prefix in found(one)}
    return max((prefix.token_count for prefix in found(other, **whose) if prefix.key in keys), default=0)


def test_tokens_are_estimated_from_everything_that_a_model_reads() -> None:
    assert total(conversation("x" * 400)) == 100 + MESSAGE_TOKENS
    picture = Message(role=Role.USER, content="", images=(b"png", b"jpg"))
    assert total(Chat(model="tiny", messages=(picture,))) == 2 * IMAGE_TOKENS + MESSAGE_TOKENS
    call = ToolCall(name="look", arguments_json="{}" * 200)
    assert (
        total(Chat(model="tiny", messages=(Message(role=Role.ASSISTANT, content="", tool_calls=(call,)),)))
        > 100
    )
    assert total(conversation("x", tools=(LOOK,))) > total(conversation("x"))
    assert total(Generate(model="tiny", prompt="x" * 400, context=tuple(range(3000)))) >= 3100
    assert total(Embed(model="tiny", inputs=("x" * 40, "y" * 40))) == 20


def test_a_conversation_that_goes_on_shares_all_that_came_before() -> None:
    first = conversation("How are you?")
    second = conversation("How are you?", "Fine.", "And now?")
    assert shared(first, second) == total(first)
    assert shared(first, first) == total(first)


def test_nothing_is_shared_between_tenants_or_models_or_after_a_difference() -> None:
    first, second = conversation("How are you?"), conversation("How are you?", "Fine.")
    assert shared(first, second, tenant="org-2") == 0
    assert shared(first, second, model="other:latest") == 0
    assert shared(conversation("x", tools=(LOOK,)), conversation("x")) == 0
    assert shared(conversation("a", "b"), conversation("c", "b")) < total(conversation("c"))
    pictures = [
        Chat(model="tiny", messages=(Message(role=Role.USER, content="same", images=(image,)),))
        for image in (b"cat", b"dog")
    ]
    assert shared(*pictures) == 0


def test_two_questions_about_one_long_text_share_the_text() -> None:
    text = "x" * (4 * PART_TOKENS * 3)
    asked = [Generate(model="tiny", prompt=text + question) for question in ("Who?", "Why?")]
    assert shared(*asked) >= 3 * PART_TOKENS


def test_a_continued_context_shares_its_beginning() -> None:
    tokens = tuple(range(PART_TOKENS * 3))
    one, other = (Generate(model="tiny", prompt="x", context=tokens[: PART_TOKENS * n]) for n in (2, 3))
    assert shared(one, other) == 2 * PART_TOKENS


def test_a_named_conversation_is_found_though_its_text_has_changed() -> None:
    first = conversation("a" * 400, "b" * 400, conversation_id="c1")
    cut = conversation("b" * 400, "c" * 4, conversation_id="c1")
    assert shared(first, cut) == total(conversation("b" * 400))
    assert shared(first, conversation("b" * 400, "c" * 4, conversation_id="c2")) == 0


def test_texts_to_embed_share_nothing() -> None:
    assert found(Embed(model="tiny", inputs=("x",))) == ()


@given(st.lists(st.text(max_size=9000), min_size=1, max_size=12), st.sampled_from(["", "c1"]))
def test_prefixes_are_few_and_fall_in_length(texts: list[str], conversation_id: str) -> None:
    ask = conversation(*texts, conversation_id=conversation_id)
    lengths = [prefix.token_count for prefix in found(ask)]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) <= 9
    assert lengths[0] == total(ask)
