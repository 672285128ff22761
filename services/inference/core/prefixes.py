"""Which instance probably still holds which beginning of a prompt, and so need not read it again.

A prompt is a chain of parts (messages). Each beginning of it has a key: a hash over all parts up to there, so
equal keys are equal texts. The first hash is over a seed that names tenant and model: no tenant can find out
by a request's speed what another one has asked.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

KEY_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A beginning of a prompt, and how many tokens it has."""

    key: str
    token_count: int


def chain(seed: str, parts: Iterable[tuple[str, int]], *, kept: int = 8) -> tuple[Prefix, ...]:
    """Return the `kept` longest beginnings of a prompt, the longest first.

    A part is its text, which should say its role too, and its token count.
    """
    longest: deque[Prefix] = deque(maxlen=kept)
    digest = _digest(b"", seed)
    token_count = 0
    for text, part_token_count in parts:
        digest = _digest(digest, text)
        token_count += part_token_count
        longest.appendleft(Prefix(key=digest.hex(), token_count=token_count))
    return tuple(longest)


def _digest(before: bytes, text: str) -> bytes:
    # What comes before has always the same length, so no two chains are hashed from the same bytes.
    return blake2b(before + text.encode(errors="surrogatepass"), digest_size=KEY_BYTES).digest()


class Prefixes:
    """What was last read where: up to `kept_max` beginnings per instance and model, the latest used."""

    def __init__(self, *, kept_max: int) -> None:
        assert kept_max > 0
        self._kept_max = kept_max
        self._kept: dict[
            str, dict[str, OrderedDict[str, None]]
        ] = {}  # By instance and model, the oldest first.
        self._holders: dict[tuple[str, str], dict[str, None]] = {}  # By model and key.

    def reusable(self, model: str, prefixes: Sequence[Prefix]) -> Mapping[str, int]:
        """Return how many tokens of a prompt each instance need not read. `prefixes`: the longest first."""
        token_counts: dict[str, int] = {}
        for prefix in prefixes:
            for instance in self._holders.get((model, prefix.key), ()):
                token_counts.setdefault(instance, prefix.token_count)
        return token_counts

    def remember(self, instance: str, model: str, prefixes: Sequence[Prefix]) -> None:
        """The instance has read this prompt. `prefixes`: the longest first."""
        kept = self._kept.setdefault(instance, {}).setdefault(model, OrderedDict())
        for prefix in reversed(prefixes):  # Of one prompt, the shortest are forgotten first.
            if prefix.key in kept:
                kept.move_to_end(prefix.key)
                continue
            kept[prefix.key] = None
            self._holders.setdefault((model, prefix.key), {})[instance] = None
            if len(kept) > self._kept_max:
                oldest, _ = kept.popitem(last=False)
                self._drop(instance, model, oldest)

    def forget(self, instance: str, model: str | None = None) -> None:
        """The instance has unloaded the model, or all of them. O(what was kept of it)."""
        models = self._kept.get(instance, {})
        for gone in list(models) if model is None else [model]:
            for key in models.pop(gone, ()):
                self._drop(instance, gone, key)
        if not models:
            self._kept.pop(instance, None)

    def _drop(self, instance: str, model: str, key: str) -> None:
        holders = self._holders[model, key]
        del holders[instance]
        if not holders:
            del self._holders[model, key]
