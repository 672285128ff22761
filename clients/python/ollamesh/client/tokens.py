"""Keeps an access token fresh.

A token is replaced in the background once it has lived most of its life, so that calls wait for a login
only the first time. There is never more than one login on its way, however many calls need it; and when
it fails, it fails for all of them: a wrong password is tried once and not once for each call.

Its life is counted on this machine's steady clock from the moment the token arrived, so a clock that is
set later does no harm.

A login gives a second token that renews the first, so a password is sent once and not every ten minutes. When a
renewal is refused, who has a password logs in anew, and everybody else is told.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import grpc
import grpc.aio
from ollamesh.auth.v1.auth_service_pb2 import ExchangeTokenRequest, LoginRequest
from ollamesh.auth.v1.auth_service_pb2 import Tokens as TokensMessage
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.auth.v1.identity_pb2 import Role
from ollamesh.client import values
from ollamesh.client.credentials import (
    AccessToken,
    ApiKey,
    ClientCredentials,
    Credentials,
    Password,
    SavedSession,
    Session,
    StaticToken,
)
from ollamesh.client.errors import error_of

LOGIN_DEADLINE_S = 10.0
RENEW_AT = 0.75  # Of a token's life: from here on a new one is fetched in the background.
USELESS_AT = 0.95  # From here on calls wait for the new one; what remains is for the way to the service.
FRESH_S = 60.0  # A saved token that lives so long is used as it is.

ROLES = {None: Role.ROLE_UNSPECIFIED, "user": Role.ROLE_USER, "admin": Role.ROLE_ADMIN}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    token: AccessToken
    received_at_s: float
    lifetime_s: float

    def age(self, now_s: float) -> float:
        """As a fraction of its life: 1 when it expires."""
        return (now_s - self.received_at_s) / self.lifetime_s if self.lifetime_s > 0 else 1.0


class Tokens:
    """Hands out a valid token for `credentials`. Belongs to one event loop."""

    def __init__(
        self,
        credentials: Credentials,
        channel: grpc.aio.Channel,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_s = now_s
        self._credentials = credentials
        self._auth = AuthServiceStub(channel)
        self._held: _Held | None = None
        self._login: asyncio.Task[_Held] | None = None
        self._refresh_token: str | None = None  # Of a password's login.
        self._refused: str | None = None  # An access token that a service called expired.

    async def token(self) -> AccessToken:
        """Return an access token. Raises CallError if none can be had."""
        if isinstance(self._credentials, StaticToken):
            return AccessToken(self._credentials.token, None)
        if isinstance(self._credentials, ApiKey):
            return AccessToken(self._credentials.key, None)
        held, now_s = self._held, self._now_s()
        if self._login is None and (held is None or held.age(now_s) >= RENEW_AT):
            self._login = asyncio.create_task(self._renew(self._credentials))
            self._login.add_done_callback(self._logged_in)
        if self._login and (held is None or held.age(now_s) >= USELESS_AT):
            held = await asyncio.shield(self._login)  # A caller that gives up must not take the login along.
        assert held
        return held.token

    async def session(self) -> Session | None:
        """Return the login as it is now, for a program that goes on with it."""
        if isinstance(self._credentials, SavedSession):
            return self._credentials.store.load()
        token = await self.token()
        if self._refresh_token is None or token.expire_time is None:
            return None
        return Session(token.value, token.expire_time, self._refresh_token)

    def forget(self, token: AccessToken) -> None:
        """`token` was refused as expired: the next call logs in."""
        if self._held and self._held.token == token:
            self._held, self._refused = None, token.value

    async def close(self) -> None:
        if self._login:
            self._login.cancel()
            await asyncio.wait((self._login,))

    def _logged_in(self, login: asyncio.Task[_Held]) -> None:
        self._login = None
        # A failure is seen by those who wait for the login; the others have a token that is still good.
        if not login.cancelled() and login.exception() is None:  # noqa: LOG004 - A task.
            self._held = login.result()

    async def _renew(self, credentials: Password | ClientCredentials | SavedSession) -> _Held:
        try:
            tokens = await self._exchange(credentials)
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure) from None
        return _Held(
            token=AccessToken(tokens.access_token, values.time(tokens.expire_time)),
            received_at_s=self._now_s(),
            lifetime_s=tokens.expire_time.ToNanoseconds() / 1e9 - time.time(),
        )

    async def _exchange(self, credentials: Password | ClientCredentials | SavedSession) -> TokensMessage:
        match credentials:
            case Password():
                return await self._by_password(credentials)
            case ClientCredentials(client_id, client_secret):
                grant = ExchangeTokenRequest.ClientCredentials(
                    client_id=client_id, client_secret=client_secret
                )
                lifetime = values.duration(credentials.lifetime_s)
                exchange = ExchangeTokenRequest(client_credentials=grant, lifetime=lifetime)
                return (await self._auth.ExchangeToken(exchange, timeout=LOGIN_DEADLINE_S)).tokens
            case SavedSession():
                return await self._by_session(credentials)
            case _:
                assert_never(credentials)

    async def _by_password(self, credentials: Password) -> TokensMessage:
        if self._refresh_token is not None:
            try:
                tokens = await self._refreshed(self._refresh_token, credentials.lifetime_s)
            except grpc.aio.AioRpcError as failure:
                if failure.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
            else:
                self._refresh_token = tokens.refresh_token
                return tokens
        login = LoginRequest(
            username=credentials.username,
            password=credentials.password,
            role=ROLES[credentials.role],
            lifetime=values.duration(credentials.lifetime_s),
        )
        tokens = (await self._auth.Login(login, timeout=LOGIN_DEADLINE_S)).tokens
        self._refresh_token = tokens.refresh_token or None
        return tokens

    async def _by_session(self, credentials: SavedSession) -> TokensMessage:
        """The saved token if it is still good, perhaps renewed by another program meanwhile; else a new one, saved."""
        session = credentials.store.load()
        tokens = TokensMessage(access_token=session.access_token)
        tokens.expire_time.FromDatetime(session.expire_time)
        left_s = session.expire_time.timestamp() - time.time()
        old = {self._refused, self._held and self._held.token.value}
        if credentials.lifetime_s is None and session.access_token not in old and left_s > FRESH_S:
            return tokens
        tokens = await self._refreshed(session.refresh_token, credentials.lifetime_s)
        credentials.store.save(session_of(tokens))
        return tokens

    async def _refreshed(self, refresh_token: str, lifetime_s: float | None) -> TokensMessage:
        grant = ExchangeTokenRequest.Refresh(refresh_token=refresh_token)
        exchange = ExchangeTokenRequest(refresh=grant, lifetime=values.duration(lifetime_s))
        return (await self._auth.ExchangeToken(exchange, timeout=LOGIN_DEADLINE_S)).tokens


def session_of(tokens: TokensMessage) -> Session:
    expire_time = values.time(tokens.expire_time)
    assert expire_time is not None
    return Session(tokens.access_token, expire_time, tokens.refresh_token)
