"""What a request may ask for, beyond the hard rules of its proto: policy, with defaults that can be raised.

The defaults are the guide's: prompts of 1 to 10,000 characters, temperatures from 0 to 1, 5 to 300 seconds.
Characters are code points after NFC (services/common/prompts.py). A role can be given other bounds.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from services.common.errors import InvalidRequest, Violation
from services.common.prompts import flaws
from services.inference.core.allowed import Models, either, read_patterns
from services.inference.core.asks import Ask, Chat, Embed, Generate, Options, Role
from services.inference.core.tables import Number, Rule, Tables, Whole, shown

# What may have bounds of its own: a role of the caller's token, or being a service.
ROLES = ("user", "admin", "service")
# What a row may say of a role, by the names of configuration.
_RULES: Mapping[str, Rule] = {
    "prompt_code_points_max": Whole(1, 1 << 20),  # A prompt's bytes are bounded by the proto.
    "temperature_max": Number(0, 2),
    "output_tokens_max": Whole(1, 1 << 20),
    "timeout_s_min": Number(0, 3600),
    "timeout_s_max": Number(0.01, 86_400),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A caller's policy."""

    prompt_code_points_max: int = 10_000
    temperature_max: float = 1.0
    output_token_count_max: int = 8192
    timeout_s_min: float = 5.0  # Of a timeout that is set on purpose; a deadline may be any.
    timeout_s_max: float = 300.0
    models: Models = None  # That the role may use; None is every one.

    def widened(self, other: "Bounds") -> "Bounds":
        """Return what either allows."""
        return Bounds(
            prompt_code_points_max=max(self.prompt_code_points_max, other.prompt_code_points_max),
            temperature_max=max(self.temperature_max, other.temperature_max),
            output_token_count_max=max(self.output_token_count_max, other.output_token_count_max),
            timeout_s_min=min(self.timeout_s_min, other.timeout_s_min),
            timeout_s_max=max(self.timeout_s_max, other.timeout_s_max),
            models=either(self.models, other.models),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The bounds of every caller: those of its roles, or the default."""

    default: Bounds = Bounds()
    by_role: Mapping[str, Bounds] = field(default_factory=dict)

    def bounds(self, roles: Collection[str]) -> Bounds:
        """Return what any of `roles` allows."""
        special = [self.by_role[role] for role in roles if role in self.by_role]
        if len(special) < len(roles) or not special:
            special.append(self.default)
        widest, *others = special
        for other in others:
            widest = widest.widened(other)
        return widest


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long one call may take, in seconds from its arrival."""

    wait_s: float  # For a slot.
    total_s: float


def limits(bounds: Bounds, *, remaining_s: float, queue_timeout_s: float | None = None) -> Limits:
    """Return how long a call may take, of which `remaining_s` is left by its deadline.

    A deadline beyond the bounds is clipped: it may belong to the caller's caller. A queue timeout is this
    caller's own word, so one below the bounds is refused: it asks for a refusal, not for an answer.
    """
    if queue_timeout_s is not None and queue_timeout_s < bounds.timeout_s_min:
        description = f"must be at least {bounds.timeout_s_min:g} s"
        raise InvalidRequest([Violation("queue_timeout", description, "policy.timeout")])
    total_s = min(remaining_s, bounds.timeout_s_max)
    return Limits(
        wait_s=total_s if queue_timeout_s is None else min(queue_timeout_s, total_s), total_s=total_s
    )


def read_policies(text: str, *, default: Bounds) -> tuple[Policies, list[str]]:
    """Return the policies that a JSON table of roles adds to `default`, and every mistake in it."""
    tables = Tables()
    by_role: dict[str, Bounds] = {}
    for role, row in tables.rows(text).items():
        own = {name: value for name, value in row.items() if name != "models"}
        said = tables.settings(own, _RULES, where=shown(role))
        by_role[role] = made = replace(
            default,
            prompt_code_points_max=int(said.get("prompt_code_points_max", default.prompt_code_points_max)),
            temperature_max=said.get("temperature_max", default.temperature_max),
            output_token_count_max=int(said.get("output_tokens_max", default.output_token_count_max)),
            timeout_s_min=said.get("timeout_s_min", default.timeout_s_min),
            timeout_s_max=said.get("timeout_s_max", default.timeout_s_max),
            models=read_patterns(tables, row["models"], where=f"{shown(role)}.models")
            if "models" in row
            else default.models,
        )
        if role not in ROLES:
            tables.mistakes.append(f"has a key that is no role: {shown(role)}")
        if made.timeout_s_min > made.timeout_s_max:
            tables.mistakes.append(f"has a timeout_s_min in {shown(role)} above its timeout_s_max")
    return Policies(default=default, by_role=by_role), tables.mistakes


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
