"""Personal data: what is found, what becomes of it, and that none gets through in pieces."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.agent.adapters.pii_detectors import DETECTORS
from services.agent.core.pii import HELD_CHARS_MAX, PiiAction, PiiKind, PiiRule, Redactor
from services.agent.core.text_filter import filtered
from services.agent.core.writing import Piece, Wording, Writing
from services.agent.errors import PiiBlocked

ENTITIES = {
    PiiKind.EMAIL: ["ann@example.org", "a.b+c_d%e@mail.example.co.uk"],
    PiiKind.CREDIT_CARD: [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5500-0055-5555-5559",
        "3782 822463 10005",
        "378282246310005",
        "6304000000000000",
        "3056 930902 5904",
    ],
    PiiKind.IP_ADDRESS: ["192.168.10.42", "8.8.8.8", "2001:db8::8a2e:370:7334", "fe80::1", "::ffff:10.1.2.3"],
    PiiKind.MAC_ADDRESS: ["00:1B:44:11:3a:B7", "00-1b-44-11-3a-b7"],
}
PLANTED = [(kind, entity) for kind, entities in ENTITIES.items() for entity in entities]
EVERY_KIND = [PiiRule(kind, PiiAction.REDACT) for kind in PiiKind]


def redactor(*rules: PiiRule) -> Redactor:
    return Redactor(rules or EVERY_KIND, DETECTORS)


def in_pieces(pieces: Sequence[str], *rules: PiiRule) -> str:
    watched, shown, fed = redactor(*rules), "", 0
    for piece in pieces:
        fed += len(piece)
        shown += watched.feed(piece)
        assert len(watched._held) <= HELD_CHARS_MAX
    return shown + watched.end()


@st.composite
def pieces_of(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


SURROUNDING = st.text(alphabet=" .,:;()\n<>\"'hello12-\N{LATIN SMALL LETTER E WITH ACUTE}", max_size=40)
PADDED = st.one_of(SURROUNDING.map(lambda text: f"{text} "), st.just(""), st.just("x" * 3000 + " "))


@pytest.mark.parametrize(("kind", "entity"), PLANTED)
def test_each_kind_is_found_whole(kind: PiiKind, entity: str) -> None:
    rule = PiiRule(kind, PiiAction.REDACT)
    assert filtered(f"It is {entity}, he said.", redactor(rule)) == f"It is [{kind.value}], he said."
    assert filtered(entity, redactor(rule)) == f"[{kind.value}]"


@given(planted=st.sampled_from(PLANTED), before=PADDED, after=PADDED, data=st.data())
def test_what_is_planted_never_gets_through_however_it_is_cut(
    planted: tuple[PiiKind, str], before: str, after: str, data: st.DataObject
) -> None:
    _, entity = planted
    pieces = data.draw(pieces_of(st.just(f"{before}{entity} {after}")))
    assert entity not in in_pieces(pieces)


@settings(max_examples=300)
@given(pieces_of(st.text(alphabet="4111 a@b.co-:\nfe8", max_size=120)))
def test_pieces_become_what_the_whole_becomes(pieces: list[str]) -> None:
    assert in_pieces(pieces) == filtered("".join(pieces), redactor())


@given(pieces_of(st.text(max_size=200)))
def test_other_text_is_left_alone(pieces: list[str]) -> None:
    assert in_pieces(pieces, PiiRule(PiiKind.MAC_ADDRESS, PiiAction.REDACT)) == "".join(pieces)


def test_a_word_without_end_hides_nothing() -> None:
    """However long what stands before it, and though no more than so much is held back."""
    for length in (400, 511, 512, 1023, 1024, 5000):
        text = "x" * length + "-ann@example.org"
        shown = in_pieces(list(text))
        assert "ann@example.org" not in shown
        assert shown.endswith("[EMAIL]")


def test_an_address_of_any_length_is_not_shown_whole() -> None:
    shown = in_pieces(list("a" * 3000 + "@example.org and more"))
    assert "example.org" not in shown
    assert shown.endswith("[EMAIL] and more")


@pytest.mark.parametrize(
    ("kind", "entity", "left"),
    [
        (PiiKind.EMAIL, "ann@example.org", "****.org"),
        (PiiKind.CREDIT_CARD, "4111 1111 1111 1111", "****1111"),
        (PiiKind.IP_ADDRESS, "10.0.0.1", "****.1"),
        (PiiKind.MAC_ADDRESS, "00:1B:44:11:3a:B7", "****a:B7"),
    ],
)
def test_of_what_is_masked_only_the_end_is_left(kind: PiiKind, entity: str, left: str) -> None:
    assert filtered(f"<{entity}>", redactor(PiiRule(kind, PiiAction.MASK))) == f"<{left}>"


@pytest.mark.parametrize(("kind", "entity"), PLANTED)
def test_what_is_blocked_is_named_by_its_kind_alone(kind: PiiKind, entity: str) -> None:
    with pytest.raises(PiiBlocked) as blocked:
        in_pieces(list(f"see {entity} there"), PiiRule(kind, PiiAction.BLOCK))
    assert blocked.value.facts == {"kind": kind.value}
    assert entity not in str(blocked.value)


def test_the_strictest_of_rules_that_meet_holds() -> None:
    rules = [PiiRule(PiiKind.EMAIL, PiiAction.REDACT), PiiRule(PiiKind.CREDIT_CARD, PiiAction.BLOCK)]
    with pytest.raises(PiiBlocked):
        filtered("4111111111111111@example.org", redactor(*rules))


@pytest.mark.parametrize(
    "harmless",
    [
        "12:30:45",
        "std::cout",
        "1.2.3",
        "4111 1111 1111 1112",
        "a@b",
        "x :: Int",
        "999.1.1.1",
        "1, 2, 3, 4, 5, 6, 7",
    ],
)
def test_what_only_looks_alike_is_left(harmless: str) -> None:
    assert filtered(f"It is {harmless} here", redactor()) == f"It is {harmless} here"


def test_a_number_may_be_a_card_and_so_may_a_tool_that_there_is_not() -> None:
    card, number = 4111111111111111, 17
    wording = Wording(inner_filters=lambda: [redactor()])
    calls = [("pay", json.dumps({"card": card, "n": number, "x": [1.5, True, None]})), (str(card), "{}")]
    told = Writing({"pay": {}}, wording).hear(Piece(calls=calls))
    assert told.calls[0].arguments == {"card": "[CREDIT_CARD]", "n": number, "x": [1.5, True, None]}
    assert told.calls[1].name == "[CREDIT_CARD]"
