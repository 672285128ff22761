"""The path of every call: a fresh token, a deadline, and failures as CallError."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import TypeVar

import grpc
import grpc.aio
from ollamesh.client.credentials import AccessToken
from ollamesh.client.errors import CallError, error_of
from ollamesh.client.tokens import Tokens

Request = TypeVar("Request")
Response = TypeVar("Response")


class Calls:
    """Makes calls with the tokens of one caller."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        deadline_s: float,
    ) -> Response:
        ends_at_s = _now_s() + deadline_s
        token = await self._token(deadline_s)
        try:
            return await method(request, metadata=_bearer(token), timeout=ends_at_s - _now_s())
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure, token) from None

    async def upload(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[Request, Response],
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        deadline_s: float,
    ) -> Response:
        """Send all `requests`. What they raise is raised here, and the call is cancelled."""
        ends_at_s = _now_s() + deadline_s
        token = await self._token(deadline_s)
        broken: list[Exception] = []  # gRPC would only say that the call was cancelled.

        async def sent() -> AsyncGenerator[Request, None]:
            try:
                async for request in _each(requests):
                    yield request
            except Exception as error:
                broken.append(error)
                raise

        try:
            return await method(sent(), metadata=_bearer(token), timeout=ends_at_s - _now_s())
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure, token) from None
        except asyncio.CancelledError:
            if not broken:
                raise
        raise broken[0]

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        deadline_s: float,
    ) -> AsyncGenerator[Response, None]:
        """Yield what arrives. However the reader leaves, the call is cancelled and the service knows."""
        ends_at_s = _now_s() + deadline_s
        token = await self._token(deadline_s)
        call = method(request, metadata=_bearer(token), timeout=ends_at_s - _now_s())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure, token) from None
        finally:
            call.cancel()

    async def _token(self, deadline_s: float) -> AccessToken:
        try:
            async with asyncio.timeout(deadline_s):
                return await self._tokens.token()
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise CallError(code=code, message="the deadline passed during the login") from None

    def _error(self, failure: grpc.aio.AioRpcError, token: AccessToken) -> CallError:
        error = error_of(failure)
        if error.reason == "TOKEN_EXPIRED":
            self._tokens.forget(token)
        return error


async def _each(requests: Iterable[Request] | AsyncIterable[Request]) -> AsyncGenerator[Request, None]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


def _bearer(token: AccessToken) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token.value}"),)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
