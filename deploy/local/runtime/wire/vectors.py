"""Embeddings as Ollama hands them out: shortened if asked, and of length one."""

import math


def unit(vector: list[float], *, dimensions: int = 0) -> list[float]:
    """`vector` scaled to length one, after keeping its first `dimensions` numbers if that is fewer."""
    kept = vector[:dimensions] if 0 < dimensions < len(vector) else vector
    length = math.sqrt(math.fsum(number * number for number in kept)) or 1.0
    return [number / length for number in kept]
