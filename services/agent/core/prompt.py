"""What a user may say to an agent."""

import unicodedata

from services.common.errors import InvalidRequest, Violation

INPUT_CODE_POINTS_MAX = 10_000  # The mesh's policy for prompts, counted as a reader counts: after NFC.


def normalised(text: str) -> str:
    """`text` in NFC. Raises InvalidRequest unless 1 to 10,000 code points are left."""
    normal = unicodedata.normalize("NFC", text)
    if not 1 <= len(normal) <= INPUT_CODE_POINTS_MAX:
        description = f"must have 1 to {INPUT_CODE_POINTS_MAX} code points after NFC"
        raise InvalidRequest([Violation("input", description, "input.code_points")])
    return normal
