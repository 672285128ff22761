"""How often a failed attempt may be repeated elsewhere.

A retry is a favour that a healthy fleet can afford. When much fails, retries only add load to what is
left, so they are paid for by first attempts: one for every ten, and a few in hand for when few are made.
"""

_EARNED_PER_ATTEMPT = 0.1
_SAVED_MAX = 10.0


class RetryBudget:
    """Of a hundred requests or more, at most a fifth are repeated; of fewer, at most twenty."""

    def __init__(self) -> None:
        self._saved = _SAVED_MAX

    def earn(self) -> None:
        """Count a first attempt."""
        self._saved = min(_SAVED_MAX, self._saved + _EARNED_PER_ATTEMPT)

    def spend(self) -> bool:
        """Take one retry, if there is one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
