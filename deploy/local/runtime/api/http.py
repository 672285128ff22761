"""Bodies in, JSON or NDJSON out."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from aiohttp import web
from msgspec import Raw, Struct

from deploy.local.runtime.errors import ModelNotFoundError, WireError
from deploy.local.runtime.ports import Backend, ModelCard
from deploy.local.runtime.wire.names import full_name
from deploy.local.runtime.wire.replies import ErrorReply, encode, encode_line


def find(backend: Backend, name: str) -> ModelCard:
    """Raises ModelNotFoundError."""
    wanted = full_name(name)
    for card in backend.installed():
        if name and card.answers_to(wanted):
            return card
    raise ModelNotFoundError(name)


def json_reply(reply: Struct | Raw, *, status: int = 200) -> web.Response:
    return web.Response(body=encode(reply), status=status, content_type="application/json", charset="utf-8")


async def ndjson_reply(
    request: web.Request, replies: AsyncGenerator[Struct | Raw, None]
) -> web.StreamResponse:
    """Stream `replies`. One that fails before the first keeps its status; later it becomes a line."""
    async with aclosing(replies):
        first = await anext(replies, None)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        if first is not None:
            # Between a hang-up and the cancellation of this handler writes fail, which is no error of ours.
            with suppress(ConnectionResetError):
                await response.write(encode_line(first))
                try:
                    async for reply in replies:
                        await response.write(encode_line(reply))
                except WireError as error:
                    await response.write(encode_line(ErrorReply(str(error))))
        return response
