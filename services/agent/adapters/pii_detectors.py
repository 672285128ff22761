"""What personal data looks like: LangChain's detectors, and what they do not find of what the API promises.

Theirs know of IP addresses only those of version 4, of cards only those of 16 digits, and they miss a card whose
number follows another group of four. What either finds counts.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from ipaddress import AddressValueError, IPv6Address

from langchain.agents.middleware.pii import (
    PIIMatch,
    detect_credit_card,
    detect_email,
    detect_ip,
    detect_mac_address,
)

from services.agent.core.pii import Detector, Detectors, PiiKind

# As they are printed, or in one piece. Looked for at every place, so that no group hides the next one.
CARD = re.compile(
    r"(?<!\d)(?=("
    r"\d{13,19}"
    r"|(?:\d{4}[\s-]?){3}\d{4}(?:[\s-]?\d{3})?"
    r"|\d{4}[\s-]\d{6}[\s-]\d{4,5}"
    r")(?!\d))"
)
IPV6 = re.compile(r"(?<![\w:])(?=[0-9A-Fa-f:]*[0-9A-Fa-f])[0-9A-Fa-f:]{3,40}(?![\w])")


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in CARD.finditer(text):
        if _keeps_luhn([int(char) for char in match[1] if char.isdecimal()]):
            yield match.span(1)


def _keeps_luhn(digits: Sequence[int]) -> bool:
    doubled = (2 * digit - 9 * (digit > 4) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _ipv6(text: str) -> Iterator[tuple[int, int]]:
    for match in IPV6.finditer(text):
        end = match.end() - (match[0].endswith(":") and not match[0].endswith("::"))
        try:
            IPv6Address(text[match.start() : end])
        except AddressValueError:
            continue
        yield match.start(), end


def _both(
    theirs: Callable[[str], list[PIIMatch]], *ours: Callable[[str], Iterator[tuple[int, int]]]
) -> Detector:
    def detect(text: str) -> Sequence[tuple[int, int]]:
        found = [(match["start"], match["end"]) for match in theirs(text)]
        return found + [span for each in ours for span in each(text)]

    return detect


DETECTORS: Detectors = {
    PiiKind.EMAIL: _both(detect_email),
    PiiKind.CREDIT_CARD: _both(detect_credit_card, _cards),
    PiiKind.IP_ADDRESS: _both(detect_ip, _ipv6),
    PiiKind.MAC_ADDRESS: _both(detect_mac_address),
}
