"""Kubernetes' quantities, as numbers: what they mean is in no schema."""

import re
from decimal import Decimal

_DECIMAL = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{name: Decimal(1000**n) for n, name in enumerate("kMGT", 1)},
}
SUFFIXES = {**_DECIMAL, **{f"{name}i": Decimal(1024**n) for n, name in enumerate("KMGT", 1)}}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")


def quantity(text: str | float) -> Decimal | None:
    """None if it is none."""
    found = _QUANTITY.fullmatch(str(text))
    if found is None or found[2] not in SUFFIXES:
        return None
    return Decimal(found[1]) * SUFFIXES[found[2]]
