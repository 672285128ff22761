"""How a client proves who it is. The secrets never show in a repr."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

Role = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class Password:
    """A local user. `role` and `lifetime_s` ask for a token that can do less, or lives shorter."""

    username: str
    password: str = field(repr=False)
    role: Role | None = None
    lifetime_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A service account."""

    client_id: str
    client_secret: str = field(repr=False)
    lifetime_s: float | None = None


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A token from elsewhere. Nobody renews it: calls fail with TOKEN_EXPIRED once it has."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, as `create_api_key` or `ollamesh keys create` gave it. It is sent as it is, and lasts until it ends."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Session:
    """A login that lasts: a token, and the one that renews it. Each renewal replaces both."""

    access_token: str = field(repr=False)
    expire_time: datetime
    refresh_token: str = field(repr=False)


class SessionStore(Protocol):
    """Where a session is kept between programs. Several may share one: whoever renews it saves it for all."""

    def load(self) -> Session: ...

    def save(self, session: Session) -> None: ...


@dataclass(frozen=True, slots=True)
class SavedSession:
    """Somebody who logged in before. Once a renewal is refused, the login is over: calls fail with GRANT_INVALID."""

    store: SessionStore = field(repr=False)
    lifetime_s: float | None = None


Credentials = Password | ClientCredentials | StaticToken | ApiKey | SavedSession


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a login is good for. `expire_time` is None if only its maker knows."""

    value: str = field(repr=False)
    expire_time: datetime | None
