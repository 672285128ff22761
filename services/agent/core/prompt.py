"""What a user may say to an agent."""

import unicodedata

from services.common.errors import InvalidRequest
from services.common.prompts import flaws

INPUT_CODE_POINTS_MAX = 10_000  # The mesh's policy for prompts.


def normalised(text: str) -> str:
    """`text` in NFC. Raises InvalidRequest if it is empty or too long."""
    if broken := flaws(text, field="input", code_points_max=INPUT_CODE_POINTS_MAX):
        raise InvalidRequest(broken)
    return unicodedata.normalize("NFC", text)
