"""How long a prompt is, and what makes one unfit: one rule for every service that takes one.

Counted as a reader counts: in code points after NFC, so that one text has one length however it was typed.
"""

from unicodedata import combining, normalize

from services.common.errors import Violation

# A canonical decomposition has at most four code points, so longer texts need not be normalised.
_NFC_SHRINKS_MAX = 4
# UAX 15's stream-safe format. Normalising a longer run takes time quadratic in its length: 40,000 marks
# on one letter would hold every stream of a service up for three seconds.
_MARKS_MAX = 30


def flaws(text: str, *, field: str, code_points_max: int) -> list[Violation]:
    """What is wrong with `text`, if anything. Takes time linear in the bound, whatever the text."""
    if not text:
        return [Violation(field, "must not be empty", "policy.prompt_length")]
    too_long = Violation(field, f"must be at most {code_points_max} code points", "policy.prompt_length")
    if len(text) > _NFC_SHRINKS_MAX * code_points_max:
        return [too_long]
    if text.isascii():
        return [too_long] if len(text) > code_points_max else []
    if _longest_run_of_marks(text) > _MARKS_MAX:
        description = f"must not have more than {_MARKS_MAX} combining marks in a row"
        return [Violation(field, description, "policy.marks")]
    return [too_long] if len(normalize("NFC", text)) > code_points_max else []


def _longest_run_of_marks(text: str) -> int:
    longest = run = 0
    for character in text:
        if combining(character):
            run += 1
            longest = max(longest, run)
        else:
            run = 0
    return longest
