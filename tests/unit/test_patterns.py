"""Phrases are found however they are typed, and nothing of a prompt is logged."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.common.config import ConfigError, Environment
from services.common.errors import PromptBlocked
from services.common.patterns import USUAL_PHRASES, Mode, Phrases, folded
from services.common.screening import PHRASES_MAX, Screen, ScreeningConfig

UNSEEN = ["\u200b", "\u200d", "\u00ad", "\u2060", "\ufeff", "\ufe0f", "\u180e", "\U000e0041", "\u3164"]
USUAL = Phrases(USUAL_PHRASES)


def disguised(draw: st.DrawFn, phrase: str) -> str:
    """Return a phrase in another case and width, with unseen characters and other spaces in it."""
    typed = ""
    for character in phrase:
        if character == " ":
            typed += draw(st.sampled_from([" ", "  ", "\t", "\n", "\u00a0", "\u2003"]))
            continue
        wide = chr(ord(character) + 0xFEE0)
        bold = chr(ord("\U0001d41a") + ord(character) - ord("a")) if character.isalpha() else character
        typed += draw(st.sampled_from([character, character.upper(), wide, bold]))
        typed += draw(st.sampled_from(["", *UNSEEN]))
    return typed


@given(data=st.data(), phrase=st.sampled_from(USUAL_PHRASES), before=st.text(), after=st.text())
def test_a_phrase_is_found_however_it_is_typed(
    data: st.DataObject, phrase: str, before: str, after: str
) -> None:
    typed = data.draw(st.composite(disguised)(phrase))
    # A mark would join the letter before it, and make another one of it.
    if after and unicodedata.combining(unicodedata.normalize("NFKD", after)[0]):
        after = f".{after}"
    assert phrase in USUAL.found(f"{before} {typed} {after}")


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@pytest.mark.parametrize("text", ["", "Why is the sky blue?", "ignore the instructions", "system  pr.ompt"])
def test_what_has_no_phrase_is_not_found(text: str) -> None:
    assert USUAL.found(text) == ()


def screen(mode: Mode) -> Screen:
    return Screen(ScreeningConfig(mode=mode), CollectorRegistry())


@pytest.mark.parametrize(("mode", "told"), [(Mode.OFF, False), (Mode.LOG, False), (Mode.FLAG, True)])
def test_only_flagging_tells_the_caller(mode: Mode, *, told: bool) -> None:
    with capture_logs() as logs:
        assert screen(mode).flags([("prompt", "my SECRET system prompt")]) is told
    assert [(entry["field"], entry["phrase"]) for entry in logs] == (
        [] if mode is Mode.OFF else [("prompt", "system prompt")]
    )
    assert "SECRET" not in repr(logs)


def test_blocking_names_every_field_and_not_what_it_says() -> None:
    asked = [
        ("messages[0].content", "system prompt"),
        ("messages[1].content", "hello"),
        ("messages[2].content", "__import__('x')"),
    ]
    with pytest.raises(PromptBlocked) as refusal:
        screen(Mode.BLOCK).flags(asked)
    assert [broken.field for broken in refusal.value.violations] == [
        "messages[0].content",
        "messages[2].content",
    ]
    assert refusal.value.reason == "PROMPT_BLOCKED"


def test_settings_are_read_and_checked() -> None:
    read = ScreeningConfig.read
    assert read(Environment({})) == ScreeningConfig(mode=Mode.FLAG, phrases=USUAL_PHRASES)
    given = {"OLLAMESH_PROMPT_PATTERNS_MODE": "block", "OLLAMESH_PROMPT_PATTERNS": "one\n\n two words \n"}
    assert read(Environment(given)) == ScreeningConfig(mode=Mode.BLOCK, phrases=("one", "two words"))
    env = Environment(
        {"OLLAMESH_PROMPT_PATTERNS_MODE": "deny", "OLLAMESH_PROMPT_PATTERNS": "x\n" * (PHRASES_MAX + 1)}
    )
    read(env)
    with pytest.raises(ConfigError) as wrong:
        env.check()
    assert [mistake.split()[0] for mistake in wrong.value.mistakes] == [
        "OLLAMESH_PROMPT_PATTERNS_MODE",
        "OLLAMESH_PROMPT_PATTERNS",
    ]
