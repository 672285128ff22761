"""What a request may ask for, beyond the hard rules of its proto: policy, with defaults that can be raised."""

from dataclasses import dataclass

from services.common.errors import InvalidRequest, Violation
from services.common.prompts import flaws
from services.inference.core.asks import Ask, Chat, Embed, Generate, Options, Role


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
    if not text and may_be_empty:
        return []
    return flaws(text, field=field, code_points_max=bounds.prompt_code_points_max)


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
