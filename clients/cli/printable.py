"""Text that a terminal shows and does not obey. A module of its own: what must be quick needs it and not rich."""

import re

# All that could move the cursor or be obeyed: C0 and C1 controls but for tab and newline, and what turns
# the direction of the text around; and what is seen by nobody, so that what is approved is what is read.
CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    r"\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """`text` with its control characters made visible, so that a terminal shows and does not obey them."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text.replace("\r\n", "\n"))
