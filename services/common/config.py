"""Typed reading of the environment, the only configuration there is.

A service that starts with half its settings wrong would be mended one restart at a time; so mistakes
are collected, and `check` names all of them at once, and never a value. Every `X` can be given as
`X_FILE`, the path of a file that holds it.
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.fernet import Fernet


class ConfigError(Exception):
    """What is wrong with the environment, one line for each mistake."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = tuple(mistakes)


class Environment:
    """Reads settings and remembers mistakes. Call `check` before using what it returned."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._mistakes: list[str] = []
        self.secrets: list[str] = []  # What was read that must not be told, for whoever writes logs.

    def check(self) -> None:
        """Raise ConfigError if anything that was read is missing or wrong."""
        if self._mistakes:
            raise ConfigError(self._mistakes)

    def reject(self, name: str, why: str) -> None:
        """Remember a mistake that only the reader of a setting can see. `why` holds no value."""
        self._mistakes.append(f"{name} {why}")

    def optional(self, name: str) -> str | None:
        """The value of `name`, or what the file named by `name`_FILE holds, or None."""
        if (value := self._variables.get(name, "").strip()) != "":
            return value
        if (path := self._variables.get(f"{name}_FILE", "").strip()) == "":
            return None
        try:
            return Path(path).read_text().strip() or None
        except OSError as error:
            self._mistakes.append(f"{name}_FILE cannot be read: {error.strerror}")
            return None

    def text(self, name: str, default: str | None = None) -> str:
        value = self.optional(name) or default
        if value is None:
            self._mistakes.append(f"{name} is not set")
            return ""
        return value

    def secret(self, name: str, *, bytes_min: int = 32) -> str:
        """A required value that must not be guessable."""
        value = self.text(name)
        if value and len(value.encode()) < bytes_min:
            self._mistakes.append(f"{name} is weak: it needs at least {bytes_min} bytes")
        self.secrets.append(value)
        return value

    def optional_secret(self, name: str) -> str | None:
        """One that somebody else made, so that nothing is known of its form."""
        value = self.optional(name)
        self.secrets += [] if value is None else [value]
        return value

    def url(self, name: str, *schemes: str) -> str:
        value = self.text(name)
        if value and (urlsplit(value).scheme not in schemes or not urlsplit(value).netloc):
            self._mistakes.append(f"{name} is not a URL that starts with {' or '.join(schemes)}")
        self.secrets += [value, _password_in(value)]
        return value

    def fernet_keys(self, name: str) -> tuple[str, ...]:
        """Required keys, separated by commas, so that they can be rotated: the first seals, each opens."""
        text = self.text(name)
        if not text:
            return ()
        self.secrets += text.split(",")
        try:
            return fernet_keys(text)
        except ValueError:
            self.reject(
                name, "is not a comma-separated list of Fernet keys (32 bytes in URL-safe base64 each)"
            )
            return ()

    def file_of(self, name: str) -> Path | None:
        """The file that `name` is read from, if it is."""
        path = self._variables.get(f"{name}_FILE", "").strip()
        return Path(path) if path and not self._variables.get(name, "").strip() else None

    def integer(self, name: str, default: int, *, low: int = 0, high: int = 2**31) -> int:
        return int(self._number(name, default, low, high, whole=True))

    def seconds(self, name: str, default: float, *, low: float = 0, high: float = 86_400) -> float:
        return self._number(name, default, low, high, whole=False)

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        return self._number(name, default, low, high, whole=False)

    def flag(self, name: str, *, default: bool) -> bool:
        value = (self.optional(name) or str(default)).lower()
        if value not in {"true", "false", "1", "0"}:
            self._mistakes.append(f"{name} is neither true nor false")
        return value in {"true", "1"}

    def _number(self, name: str, default: float, low: float, high: float, *, whole: bool) -> float:
        text = self.optional(name)
        if text is None:
            return default
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            self._mistakes.append(f"{name} is not a {'whole ' if whole else ''}number")
            return default
        if not low <= value <= high:  # NaN fails this too.
            self._mistakes.append(f"{name} is not between {low:g} and {high:g}")
            return default
        return value


def _password_in(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def fernet_keys(text: str) -> tuple[str, ...]:
    """The keys in `text`. Raises ValueError unless there is one at least, and each is one."""
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if not keys:
        raise ValueError
    for key in keys:
        Fernet(key)
    return keys
