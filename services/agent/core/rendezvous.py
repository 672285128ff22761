"""Which of several replicas something lives at: every caller that knows the same replicas picks the same one.

When one is added or gone, only what lives there moves (rendezvous hashing).
"""

import hashlib
from collections.abc import Iterable, Sequence


def ranked(targets: Iterable[str], key: str) -> Sequence[str]:
    """The targets, the one for `key` first, then those that stand in for it."""
    return sorted(targets, key=lambda target: _score(target, key), reverse=True)


def _score(target: str, key: str) -> bytes:
    return hashlib.blake2b(f"{target}\0{key}".encode(), digest_size=16).digest()
