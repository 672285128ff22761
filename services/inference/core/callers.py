"""On whose behalf a request is made, and what they want beside an answer."""

from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks. What they open is theirs: to others, of the same organisation too, it does not exist."""

    organization_id: str  # The tenant.
    project_id: str
    user_id: str
    # Who else is charged, and what proves it: of the call, and nothing that tells whose something is.
    api_key_id: str = field(default="", compare=False)
    token: str = field(default="", compare=False, repr=False)


class CachePolicy(Enum):
    """Whether an answer may come from, and go to, the tenant's cache. Answers with tool calls never do."""

    DETERMINISTIC = "deterministic"  # If the request is: see core/canonical.py.
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a stream should be kept, shared and written."""

    request_id: str = ""  # The same one again joins or replays the stream.
    linger_s: float = 0.0  # How long it goes on after its last reader has left.
    cache_policy: CachePolicy = CachePolicy.DETERMINISTIC
    by_token: bool = False  # A delta for each token.
    is_kept: bool = True  # Whether its events can be read again.
    is_charged: bool = True  # False if whoever asks charges it.
