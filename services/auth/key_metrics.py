"""How old the key is that signs tokens, and whether all keys can be used."""

import math
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from services.auth.core.keys import signing
from services.auth.keyring import Keyring


def keys_watched(
    registry: CollectorRegistry,
    keyring: Keyring,
    *,
    rotation_s: float,
    clock: Callable[[], float] = time.time,
) -> None:
    """Read whenever somebody asks."""

    def age_s() -> float:
        term = signing(keyring.terms, clock())
        # The very first has signed since ever.
        return math.nan if term is None else clock() - max(term.active_from_s, term.made_at_s)

    Gauge(
        "ollamesh_auth_signing_key_age_seconds", "Since the key that signs now began to", registry=registry
    ).set_function(age_s)
    Gauge(
        "ollamesh_auth_signing_key_rotation_seconds",
        "How old it may get, as configured; 0 if it is followed by command only",
        registry=registry,
    ).set(rotation_s)
    keys = Gauge(
        "ollamesh_auth_signing_keys",
        "Keys that are stored, by whether this replica can use them",
        ("state",),
        registry=registry,
    )
    keys.labels("usable").set_function(lambda: len(keyring.terms))
    keys.labels("unreadable").set_function(lambda: max(0, len(keyring.stored) - len(keyring.terms)))
