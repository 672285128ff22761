"""What is done about prompts that have one of the phrases of `OLLAMESH_PROMPT_PATTERNS`.

The text of a prompt is never logged: what is counted and logged is which phrase was found, where.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter

from services.common.config import Environment
from services.common.errors import PromptBlocked, Violation
from services.common.patterns import USUAL_PHRASES, Mode, Phrases

log = structlog.get_logger(__name__)

FLAG_HEADER = ("x-ollamesh-flagged", "prompt-pattern")  # Initial metadata of a call that was flagged.
PHRASES_MAX, PHRASE_CODE_POINTS_MAX = 100, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreeningConfig:
    mode: Mode = Mode.FLAG
    phrases: tuple[str, ...] = USUAL_PHRASES

    @classmethod
    def read(cls, env: Environment) -> "ScreeningConfig":
        name, words = "OLLAMESH_PROMPT_PATTERNS_MODE", ", ".join(mode.value for mode in Mode)
        said = env.text(name, Mode.FLAG.value)
        if said not in {mode.value for mode in Mode}:
            env.reject(name, f"is none of {words}")
            said = Mode.FLAG.value
        return cls(mode=Mode(said), phrases=_phrases(env))


def _phrases(env: Environment) -> tuple[str, ...]:
    """One a line."""
    name = "OLLAMESH_PROMPT_PATTERNS"
    given = env.optional(name)
    if given is None:
        return USUAL_PHRASES
    phrases = tuple(line.strip() for line in given.splitlines() if line.strip())
    if len(phrases) > PHRASES_MAX or any(len(phrase) > PHRASE_CODE_POINTS_MAX for phrase in phrases):
        env.reject(
            name, f"has more than {PHRASES_MAX} lines, or one of over {PHRASE_CODE_POINTS_MAX} characters"
        )
    return phrases


class Screen:
    """Looks at the prompts of a service."""

    def __init__(self, config: ScreeningConfig, registry: CollectorRegistry) -> None:
        self._mode = config.mode
        self._phrases = Phrases(config.phrases)
        self._found = Counter(
            "ollamesh_prompt_patterns_total",
            "Prompts in which a phrase was found, by what was done about it",
            ("phrase", "mode"),
            registry=registry,
        )

    def flags(self, prompts: Iterable[tuple[str, str]]) -> bool:
        """Look at pairs of a field and its text; return whether the caller is to be told.

        Raises PromptBlocked, with every field that has a phrase.
        """
        if self._mode is Mode.OFF:
            return False
        hits = [(field, phrase) for field, text in prompts for phrase in self._phrases.found(text)]
        for field, phrase in hits:
            self._found.labels(phrase, self._mode.value).inc()
            log.warning("prompt_pattern", field=field, phrase=phrase, mode=self._mode.value)
        if hits and self._mode is Mode.BLOCK:
            raise PromptBlocked(
                [
                    Violation(field, f"has a blocked phrase: {phrase}", "policy.prompt_pattern")
                    for field, phrase in hits
                ]
            )
        return bool(hits) and self._mode is Mode.FLAG
