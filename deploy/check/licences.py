"""The licences of what the images hold: each is known, and none binds who runs or ships Ollamesh to what they did not choose."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from deploy.docker.images import IMAGES
from deploy.docker.imports import locked

# Copyleft that reaches over a network or over a whole program, and what is not open at all.
FORBIDDEN = re.compile(
    r"\b(AGPL|Affero|SSPL|BUSL|Business Source|Commons Clause|Elastic|CC-BY-NC|Proprietary)|(?<![L/])\bGPL",
    re.IGNORECASE,
)
KNOWN = re.compile(
    r"Apache|MIT|BSD|ISC|PSF|Python Software|MPL|Mozilla|PostgreSQL|Unlicense|Zlib|CC0|0BSD|LGPL|NCSA|Dual",
    re.IGNORECASE,
)
# Whose packages do not say it themselves, with where it was read.
SAID_ELSEWHERE: Mapping[str, str] = {}


def check() -> list[str]:
    return [
        problem
        for image in IMAGES
        for name in locked(image.lock)
        for problem in problems(name, licence(name))
    ]


def problems(name: str, found: str | None) -> Iterator[str]:
    if found is None:
        return  # Of another platform or interpreter: not in this environment, and not in an image.
    if FORBIDDEN.search(found):
        yield f"{name}: the licence {found!r} is not one that images may hold."
    elif KNOWN.search(found) is None:
        yield f"{name}: its licence, {found!r}, is none that is known; look, and add it to deploy/check/licences.py."


def licence(name: str) -> str | None:
    """What a package says; the shortest of the ways to say it that it uses."""
    if name in SAID_ELSEWHERE:
        return SAID_ELSEWHERE[name]
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    return _said(found)


def _said(found: Distribution) -> str:
    def field(name: str) -> list[str]:
        return [str(value) for value in found.metadata.get_all(name) or ()]

    classifiers = [one.rpartition(" :: ")[2] for one in field("Classifier") if one.startswith("License")]
    said = [
        *field("License-Expression"),
        *([", ".join(classifiers)] if classifiers else []),
        *field("License"),
    ]
    return next(iter(said), "").strip().partition("\n")[0][:80]
