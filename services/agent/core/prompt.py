"""What a user may say to an agent."""

import unicodedata

from services.common.errors import Violation
from services.common.prompts import flaws

INPUT_CODE_POINTS_MAX = 10_000  # The mesh's policy for prompts.


def broken_rules(text: str) -> list[Violation]:
    """What is wrong with `text`, but for being empty: that, its proto says."""
    return flaws(text, field="input", code_points_max=INPUT_CODE_POINTS_MAX) if text else []


def normalised(text: str) -> str:
    """`text` in NFC, in which its length was counted."""
    return unicodedata.normalize("NFC", text)
