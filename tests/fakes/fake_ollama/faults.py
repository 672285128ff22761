"""Carries out what a script wants to go wrong. Hanging up and breaking lines need the request's own socket."""

import asyncio
from contextvars import ContextVar
from typing import Never

from aiohttp import web

from deploy.local.runtime.errors import WireError
from tests.fakes.fake_ollama.script import Cut, Deaf, Disturbance, Fail, Hang, Malformed, Refuse

# Of the request being handled; set by the server.
current_request: ContextVar[web.Request] = ContextVar("current_request")
RESPONSE = web.RequestKey("response", web.StreamResponse)


class RefusedError(WireError):
    """Any status and text that a script wants."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status  # type: ignore[misc]  # A constant everywhere else.


async def disturb(step: Disturbance, closing: asyncio.Event) -> None:
    """Once `closing` is set, a caller that has left is noticed after all."""
    match step:
        case Refuse(status, text):
            raise RefusedError(status, text)
        case Fail(text):
            raise WireError(text)
        case Malformed(line):
            await current_request.get()[RESPONSE].write(line)
        case Hang():
            await _until_the_caller_leaves()
        case Cut():
            await hang_up()
        case Deaf(until):
            await _deaf(until, closing)
        case asyncio.Event():
            await step.wait()


async def hang_up() -> Never:
    """The caller is then found to have left."""
    cut(current_request.get())
    await _until_the_caller_leaves()


def cut(request: web.Request) -> None:
    """Reset its connection, if it still has one."""
    if request.transport is not None:
        request.transport.abort()


async def _until_the_caller_leaves() -> Never:
    await asyncio.Event().wait()
    raise AssertionError


async def _deaf(until: asyncio.Event, closing: asyncio.Event) -> None:
    ends = [asyncio.ensure_future(event.wait()) for event in (until, closing)]
    left: asyncio.CancelledError | None = None
    while not (until.is_set() or closing.is_set()):
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            left = error
    for end in ends:
        end.cancel()
    if left is not None:
        raise left
