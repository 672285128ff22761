"""What was revoked before its time, and whether a token is among it.

Keyed by ids that stand in tokens, never by a token's text: the same token can be written in several ways.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

# About 15 MB. A hundred logouts a second, for as long as they must be remembered.
ENTRIES_MAX = 65_536
ID_LENGTH_MAX = 128


class Kind(Enum):
    """What is revoked. By the names of `RevocationKind`; the values are the store's."""

    TOKEN = "token"  # `jti`  # noqa: S105 - a name.
    SESSION = "session"  # `sid`
    API_KEY = "api_key"
    USER = "user"  # `user_id`, and `act.sub`: who may not act may not act for another.
    CLIENT = "client"  # `client_id`
    SIGNING_KEY = "signing_key"  # `kid`


class Revocable(Protocol):
    """What a verified token says of itself."""

    @property
    def token_id(self) -> str: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def api_key_id(self) -> str | None: ...
    @property
    def user_id(self) -> str: ...
    @property
    def actor(self) -> str | None: ...
    @property
    def client_id(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def issued_at_s(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Tokens that are dead: those with this id that were issued up to `issued_until_s`; None: whenever."""

    kind: Kind
    id: str
    issued_until_s: float | None = None
    forget_at_s: float  # By then every token that is meant has expired everywhere.

    def merged(self, other: "Revocation | None") -> "Revocation":
        """Both, as one entry: nothing that either denies is let in."""
        if other is None:
            return self
        cutoffs = (self.issued_until_s, other.issued_until_s)
        return Revocation(
            kind=self.kind,
            id=self.id,
            issued_until_s=None
            if None in cutoffs
            else max(cutoff for cutoff in cutoffs if cutoff is not None),
            forget_at_s=max(self.forget_at_s, other.forget_at_s),
        )


class DenyList:
    """Entries only ever grow stricter, until they are forgotten; so whoever tells them may repeat himself.

    A full list cannot take an entry and must not lose one: from then on all tokens count as revoked that were issued
    up to that moment. Everybody has to fetch a new one, and nobody gets back what was taken from him.
    """

    def __init__(self, *, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._found: dict[Kind, dict[str, Revocation]] = {kind: {} for kind in Kind}
        self._all_until_s = float("-inf")
        self._tokens, self._sessions = self._found[Kind.TOKEN], self._found[Kind.SESSION]
        self._api_keys, self._users = self._found[Kind.API_KEY], self._found[Kind.USER]
        self._clients, self._keys = self._found[Kind.CLIENT], self._found[Kind.SIGNING_KEY]

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def __iter__(self) -> Iterator[Revocation]:
        for entries in self._found.values():
            yield from entries.values()

    def add(self, entries: Iterable[Revocation], *, now_s: float) -> list[Revocation]:
        """Learn them; return what was new, as it stands now."""
        learned = []
        for entry in entries:
            known = self._found[entry.kind].get(entry.id)
            whole = entry.merged(known)
            if whole == known or whole.forget_at_s <= now_s:
                continue
            if known is None and len(self) >= self._entries_max:
                self.forget(now_s)
            if known is None and len(self) >= self._entries_max:
                self._all_until_s = max(self._all_until_s, now_s)
            else:
                self._found[entry.kind][entry.id] = whole
            learned.append(whole)
        return learned

    def forget(self, now_s: float) -> None:
        """Drop what no valid token can be meant by any more."""
        for entries in self._found.values():
            for name in [name for name, entry in entries.items() if entry.forget_at_s <= now_s]:
                del entries[name]

    def denies(self, token: Revocable) -> bool:
        """Whether it is revoked."""
        issued_s = token.issued_at_s
        return (
            issued_s <= self._all_until_s
            or _meant(self._tokens, token.token_id, issued_s)
            or _meant(self._users, token.user_id, issued_s)
            or _meant(self._clients, token.client_id, issued_s)
            or _meant(self._keys, token.key_id, issued_s)
            or _meant(self._sessions, token.session_id, issued_s)
            or _meant(self._api_keys, token.api_key_id, issued_s)
            or _meant(self._users, token.actor, issued_s)
        )

    def issuable_from_s(self, user_id: str, client_id: str) -> float:
        """From when on a token for them may say that it was issued, to be none of those that are revoked."""
        entries = (self._users.get(user_id), self._clients.get(client_id))
        cutoffs = [entry.issued_until_s for entry in entries if entry and entry.issued_until_s is not None]
        return max([0.0, self._all_until_s, *cutoffs])


def _meant(entries: dict[str, Revocation], name: str | None, issued_at_s: float) -> bool:
    if not entries or name is None:
        return False
    entry = entries.get(name)
    return entry is not None and (entry.issued_until_s is None or issued_at_s <= entry.issued_until_s)
