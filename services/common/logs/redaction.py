"""Takes out of a text what looks like a secret, and what is known to be one.

The last line of defence: whoever logs chooses fields that hold nothing secret. It errs on the side of taking too much.
"""

import re
from collections.abc import Iterable, Mapping
from enum import Enum

REDACTED = "[redacted]"
CHARS_MAX = 2000  # Of a text; the rest is not looked at, but cut off.
KNOWN_CHARS_MIN = 8  # A shorter one would be found in words that have nothing to do with it.

PATTERN_CHARS_MIN = 14  # Nothing shorter is a secret by its look alone.
DEPTH_MAX, ITEMS_MAX = 6, 50  # Of a value that is made of others.
DEEPER = "[...]"

_NAMES = (
    "password|passwd|passphrase|pwd|secret|secret[_-]?key|client[_-]?secret|api[_-]?key|private[_-]?key|"
    "encryption[_-]?key|signing[_-]?key|access[_-]?token|refresh[_-]?token|id[_-]?token|subject[_-]?token|token|"
    "authorization|proxy-authorization|cookie|set-cookie|database_url|redis_url|code[_-]?verifier|device[_-]?code|"
    "client[_-]?assertion|session|mandate"
)
# A digest in hexadecimal is not meant: it has no capital letters.
_OPAQUE = (
    r"(?<![0-9A-Za-z_+/-])(?=[0-9A-Za-z_+-]{43,})(?=[a-z_+-]*[0-9A-Z])(?=[^0-9\s]*[0-9])(?=[^A-Z\s]*[A-Z])"
    r"[0-9A-Za-z_+-]{43,}={0,2}(?![0-9A-Za-z_+/-])"
)
# A private key in PEM; if its end was cut off, all that is left.
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_PATTERNS = (
    # A JWT, signed or not.
    r"\beyJ[0-9A-Za-z_-]{4,}\.[0-9A-Za-z_-]{4,}(?:\.[0-9A-Za-z_-]*){0,3}",
    # What follows the scheme of an Authorization header.
    r"(?i:(?<=bearer )|(?<=basic )|(?<=dpop )|(?<=token ))[0-9A-Za-z._~+/=-]{8,}",
    # Our API keys (services/auth/core/api_keys.py) and mandates, and keys of vendors.
    r"\bomk_[a-z][a-z0-9]{0,15}_[0-9A-Za-z_]{12,}",
    r"\bom[a-z]_[0-9A-Za-z_-]{20,}",
    r"\b(?:sk|pk|rk)[-_][0-9A-Za-z_-]{16,}|\bgh[opsur]_[0-9A-Za-z]{20,}|\bgithub_pat_\w{20,}|\bxox[abprs]-[0-9A-Za-z-]{10,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{30,}|\bhf_[0-9A-Za-z]{20,}|\bglpat-[0-9A-Za-z_-]{16,}",
    # What Fernet has sealed, and anything that is random and long: 32 bytes in base64 (keys of Fernet among them).
    r"\bgAAAA[0-9A-Za-z_=-]{40,}",
    _OPAQUE,
    # Argon2's digest of a password.
    r"\$argon2[a-z]*\$[^\s\"']+",
    # An address of a person.
    r"\b[0-9A-Za-z._%+-]+@[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*\.[A-Za-z]{2,}\b",
)
_WHOLE = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS))
# Where a name or a place in a URL says that a secret follows, that alone is taken out.
_PASSWORD_IN_URL = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\"']*:)[^\s/@\"']+(?=@)")
_NAMED = re.compile(
    rf"(?P<before>(?<![A-Za-z0-9])[\"']?(?:[a-z0-9]+[_-])*(?:{_NAMES})[\"']?\s*(?:[:=]|=>)\s*)(?P<quote>[\"']?)"
    rf"(?!{re.escape(REDACTED)})"
    r"(?:(?:Bearer|Basic|DPoP)\s+)?[^\s\"',;&}\])]+",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(rf"(?:[a-z0-9]+[_-])*(?:{_NAMES})", re.IGNORECASE)
_IN_QUERY = re.compile(r"(?P<before>[?&](?:code|state|nonce|key|sig|signature)=)[^\s&\"'#]+", re.IGNORECASE)


class Redactor:
    """Knows the secrets of its process, whatever they look like."""

    def __init__(self) -> None:
        self._known: re.Pattern[str] | None = None
        self._values: set[str] = set()

    def learn(self, values: Iterable[str]) -> None:
        """Take these out from now on, wherever they are."""
        self._values |= {value for value in values if len(value) >= KNOWN_CHARS_MIN}
        longest_first = sorted(self._values, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def clean(self, text: str) -> str:
        """Return the text without what is, or looks like, a secret."""
        if len(text) > CHARS_MAX:
            text = f"{text[:CHARS_MAX]}...[{len(text) - CHARS_MAX} more]"
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        if len(text) < PATTERN_CHARS_MIN and text.isidentifier():
            return text  # Most values are words of ours, such as NOT_FOUND.
        text = _PRIVATE_KEY.sub(REDACTED, text)
        text = _PASSWORD_IN_URL.sub(rf"\g<before>{REDACTED}", text)
        text = _IN_QUERY.sub(rf"\g<before>{REDACTED}", text)
        text = _NAMED.sub(rf"\g<before>\g<quote>{REDACTED}", text)
        return _WHOLE.sub(REDACTED, text)

    def field(self, name: str, value: object) -> object:
        """Return what may be told of a field: a value of any depth, which is bounded too."""
        if isinstance(value, str) and value and _SECRET_NAME.fullmatch(name):
            return REDACTED
        return self._value(value, DEPTH_MAX)

    def _value(self, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.clean(value)
        if depth == 0:
            return DEEPER
        if isinstance(value, Mapping):
            few = list(value.items())[:ITEMS_MAX]
            return {self.clean(str(key)): self._inside(str(key), each, depth) for key, each in few}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(each, depth - 1) for each in list(value)[:ITEMS_MAX]]
        return self.clean(value.name if isinstance(value, Enum) else str(value))

    def _inside(self, name: str, value: object, depth: int) -> object:
        if isinstance(value, str) and value and _SECRET_NAME.fullmatch(name):
            return REDACTED
        return self._value(value, depth - 1)
