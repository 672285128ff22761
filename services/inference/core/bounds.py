"""What a request may ask for, beyond the hard rules of its proto: policy, with defaults that can be raised.

Prompts are counted in code points after NFC, so that one text has one length however it was typed.
"""

from dataclasses import dataclass
from unicodedata import combining, normalize

from services.common.errors import InvalidRequest, Violation
from services.inference.core.asks import Ask, Chat, Embed, Generate, Options, Role

# A canonical decomposition has at most four code points, so longer texts need not be normalised.
_NFC_SHRINKS_MAX = 4
# UAX 15's stream-safe format. Normalising a longer run takes time quadratic in its length: 40,000 marks
# on one letter would hold every stream of the service up for three seconds.
_MARKS_MAX = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A caller's policy. The context is the one of the model's configuration; 0 leaves it to the instance."""

    prompt_code_points_max: int = 10_000
    temperature_max: float = 1.0
    output_token_count_max: int = 8192
    context_token_count: int = 0


def check(ask: Ask, bounds: Bounds) -> None:
    """Raise InvalidRequest with every bound that `ask` exceeds."""
    match ask:
        case Chat():
            broken = [
                violation
                for place, message in enumerate(ask.messages)
                if message.role is Role.USER
                for violation in _prompt(
                    message.content,
                    bounds,
                    field=f"messages[{place}].content",
                    may_be_empty=bool(message.images),
                )
            ]
            broken += _options(ask.options, bounds)
        case Generate():
            broken = _prompt(ask.prompt, bounds, field="prompt", may_be_empty=False)
            broken += _options(ask.options, bounds)
        case Embed():
            broken = []
    if broken:
        raise InvalidRequest(broken)


def _prompt(text: str, bounds: Bounds, *, field: str, may_be_empty: bool) -> list[Violation]:
    if not text and not may_be_empty:
        return [Violation(field, "must not be empty", "policy.prompt_length")]
    high = bounds.prompt_code_points_max
    if len(text) > _NFC_SHRINKS_MAX * high:
        return [_too_long(field, high)]
    if text.isascii():
        return [_too_long(field, high)] if len(text) > high else []
    if _longest_run_of_marks(text) > _MARKS_MAX:
        return [
            Violation(field, f"must not have more than {_MARKS_MAX} combining marks in a row", "policy.marks")
        ]
    return [_too_long(field, high)] if len(normalize("NFC", text)) > high else []


def _too_long(field: str, high: int) -> Violation:
    return Violation(field, f"must be at most {high} code points", "policy.prompt_length")


def _longest_run_of_marks(text: str) -> int:
    longest = run = 0
    for character in text:
        if combining(character):
            run += 1
            longest = max(longest, run)
        else:
            run = 0
    return longest


def _options(options: Options, bounds: Bounds) -> list[Violation]:
    broken = []
    # Written so that NaN breaks it too.
    if options.temperature is not None and not 0 <= options.temperature <= bounds.temperature_max:
        broken.append(
            Violation(
                "options.temperature",
                f"must be between 0 and {bounds.temperature_max:g}",
                "policy.temperature",
            )
        )
    if (options.output_token_count_max or 0) > bounds.output_token_count_max:
        broken.append(
            Violation(
                "options.output_token_count_max",
                f"must be at most {bounds.output_token_count_max}",
                "policy.output_length",
            )
        )
    return broken
