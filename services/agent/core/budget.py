"""What a run may use, and when it has used it up."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Names are those of the API: a run that ends for one of them says which."""

    step_count: int = 10
    model_call_count: int = 10
    tool_call_count: int = 20
    wall_s: float = 300.0
    output_token_count_per_call: int = 1024
    token_count: int = 100_000
    approval_wait_s: float = 3600.0  # How long each question to a person waits.


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was used, by a step or by a whole run."""

    step_count: int = 0
    model_call_count: int = 0
    tool_call_count: int = 0
    prompt_token_count: int = 0
    output_token_count: int = 0
    wall_s: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            step_count=self.step_count + other.step_count,
            model_call_count=self.model_call_count + other.model_call_count,
            tool_call_count=self.tool_call_count + other.tool_call_count,
            prompt_token_count=self.prompt_token_count + other.prompt_token_count,
            output_token_count=self.output_token_count + other.output_token_count,
            wall_s=self.wall_s + other.wall_s,
        )


def limit_of_asking(limits: Limits, used: Usage) -> str | None:
    """The limit that forbids to ask the model once more."""
    if used.step_count >= limits.step_count:
        return "step_count"
    if used.model_call_count >= limits.model_call_count:
        return "model_call_count"
    if used.prompt_token_count + used.output_token_count >= limits.token_count:
        return "token_count"
    return None


def limit_of_calling(limits: Limits, used: Usage, *, wanted_count: int) -> str | None:
    """The limit that forbids to make so many more calls of tools."""
    return "tool_call_count" if used.tool_call_count + wanted_count > limits.tool_call_count else None
