"""Which passwords are good enough: long, and not among the first that anybody would try (NIST SP 800-63B).

No rule asks for digits or signs: they make passwords worse to remember and no better. Passwords are compared in NFC,
so that it does not matter how a keyboard composes its letters.
"""

import re
import unicodedata
from collections.abc import Set as AbstractSet

CHARACTERS_MIN = 12
BYTES_MAX = 1024
# Spellings that guessers try at once.
_LEET = str.maketrans("01345780$@!", "oieastbosai")
_UNIT_MAX = 4
_SEQUENCES = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiopasdfghjklzxcvbnm",
    "1qaz2wsx3edc4rfv5tgb",
)


def normalised(password: str) -> str:
    return unicodedata.normalize("NFC", password)


def weakness(password: str, *, common: AbstractSet[str], username: str = "") -> str | None:
    """What is wrong with a new password, as a sentence goes on after "the password", or None.

    `common` holds words in lower case, without the digits and signs that people put before and after them.
    """
    whole = normalised(password)
    if len(whole) < CHARACTERS_MIN:
        return f"needs at least {CHARACTERS_MIN} characters"
    if len(whole.encode()) > BYTES_MAX:
        return f"has more than {BYTES_MAX} bytes"
    folded = whole.casefold()
    if username and folded in {username, username * 2, username[::-1]}:
        return "is the name of its user"
    # Folding can make two characters of one, and so hide what is repeated.
    if any(map(_is_regular, (whole, folded))) or any(
        _is_common(form, common) for form in (folded, folded.translate(_LEET))
    ):
        return "is one of the most common"
    return None


def _is_common(folded: str, common: AbstractSet[str]) -> bool:
    """Whether it is one of the words, or some of them in a row, in whatever wrapping."""
    words = [word for word in re.split(r"[\W\d_]+", folded) if word]
    return folded in common or (bool(words) and all(_is_made_of(word, common) for word in words))


def _is_made_of(word: str, common: AbstractSet[str]) -> bool:
    return word in common or any(
        word == part * (len(word) // len(part))
        for part in (word[:size] for size in range(1, len(word) // 2 + 1))
        if part in common
    )


def _is_regular(password: str) -> bool:
    """Whether it repeats a few characters, or runs along the alphabet or the keyboard."""
    repeats = any(
        password == (password[:size] * len(password))[: len(password)] for size in range(1, _UNIT_MAX + 1)
    )
    return repeats or any(password in run * 2 or password[::-1] in run * 2 for run in _SEQUENCES)
