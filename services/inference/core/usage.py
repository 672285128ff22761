"""What an instance says that a request cost it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts and durations of a request's parts, as its instance measured them; 0 where it said nothing."""

    prompt_token_count: int = 0  # Those reused from its cache count too, although they take no time.
    prompt_s: float = 0.0
    output_token_count: int = 0
    output_s: float = 0.0
    load_s: float = 0.0
