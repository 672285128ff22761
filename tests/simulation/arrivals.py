"""Jobs of random traits."""

import random
from collections.abc import Sequence
from math import inf
from typing import Any

from services.inference.core.jobs import Job, Priority
from services.inference.core.prefixes import Prefix

TENANTS = ("a", "b", "c", "d")


def some_job(chance: random.Random, ticket: int, now_s: float, models: Sequence[str], **given: Any) -> Job:
    """A job of random traits, but for those that are given."""
    lasting_s = chance.choice([0.0, 1.0, 5.0, 20.0, 120.0]) * chance.uniform(0.5, 1.5)
    token_count = chance.choice([20, 100, 400])
    traits: dict[str, Any] = {
        "ticket": ticket,
        "tenant": chance.choice(TENANTS),
        "model": chance.choice(models),
        "priority": chance.choice(list(Priority)),
        "arrived_at_s": now_s,
        "expires_at_s": now_s + lasting_s,
        "deadline_at_s": now_s + lasting_s + 30 if chance.random() < 0.3 else inf,
        "prompt_token_count": token_count,
        "output_token_max": chance.choice([0, 10, 100, 300]),
    }
    if chance.random() < 0.3:
        talk = f"talk {chance.randrange(6)}"
        traits["prefixes"] = (Prefix(key=talk, token_count=token_count - 10),)
    return Job(**traits | given)


def patient(**given: Any) -> dict[str, Any]:
    """A job that waits for as long as it takes."""
    return {"expires_at_s": inf, "deadline_at_s": inf, "prefixes": (), **given}
