"""`/api/chat` and `/api/generate`: the same life, two shapes."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TypeVar

from aiohttp import web

from deploy.local.runtime.api.http import find, json_reply, ndjson_reply
from deploy.local.runtime.errors import (
    MissingCapabilityError,
    ModelRequiredError,
    RawConflictError,
    UnsupportedError,
)
from deploy.local.runtime.ports import Backend, Finished, ModelCard, Piece, Pieces, Text, Thought
from deploy.local.runtime.wire.replies import ChatReply, CompletionReply, GenerateReply, Message
from deploy.local.runtime.wire.requests import ChatRequest, CompletionRequest, GenerateRequest, parse

Reply = TypeVar("Reply", ChatReply, GenerateReply)


class Completions:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def chat(self, request: web.Request) -> web.StreamResponse:
        began_ns = time.perf_counter_ns()
        body = parse(await request.read(), ChatRequest)
        keep_alive_s = body.keep_alive_s
        if not body.model:
            raise ModelRequiredError
        card = find(self._backend, body.model)
        if not body.messages and keep_alive_s == 0:
            await self._backend.unload(card)
            return json_reply(_empty_chat(body.model, "unload"))
        _check(card, body, "chat")
        if body.tools and "tools" not in card.capabilities:
            raise MissingCapabilityError(card.name, "tools")
        if not body.messages:
            await self._backend.load(card, body)
            return json_reply(_empty_chat(body.model, "load"))
        pieces = self._backend.chat(card, body)
        return await _reply(request, body, pieces, lambda piece: _chat_reply(body.model, piece, began_ns))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        began_ns = time.perf_counter_ns()
        body = parse(await request.read(), GenerateRequest)
        keep_alive_s = body.keep_alive_s
        card = find(self._backend, body.model)
        if not body.prompt and keep_alive_s == 0:
            await self._backend.unload(card)
            return json_reply(_empty_generate(body.model, "unload"))
        if body.raw and (body.template or body.system or body.context):
            raise RawConflictError
        _check(card, body, "generate")
        if body.suffix and "insert" not in card.capabilities:
            raise MissingCapabilityError(card.name, "insert")
        if not body.prompt:
            await self._backend.load(card, body)
            return json_reply(_empty_generate(body.model, "load"))
        pieces = self._backend.generate(card, body)
        return await _reply(request, body, pieces, lambda piece: _generate_reply(body.model, piece, began_ns))


def _check(card: ModelCard, body: CompletionRequest, verb: str) -> None:
    if body.think and "thinking" not in card.capabilities:
        raise UnsupportedError(body.model, "thinking")
    if "completion" not in card.capabilities:
        raise UnsupportedError(body.model, verb)


async def _reply(
    request: web.Request, body: CompletionRequest, pieces: Pieces, shape: Callable[[Piece], Reply]
) -> web.StreamResponse:
    if body.streamed:
        return await ndjson_reply(request, _shaped(pieces, shape))
    return json_reply(await _folded(pieces, shape))


async def _shaped(pieces: Pieces, shape: Callable[[Piece], Reply]) -> AsyncGenerator[Reply, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            yield shape(piece)


async def _folded(pieces: Pieces, shape: Callable[[Piece], Reply]) -> Reply:
    """The last object with all the text. If the model fell silent before its end, so it says: done is false."""
    text: list[str] = []
    thoughts: list[str] = []
    last: Piece = Text("")
    async with aclosing(pieces):
        async for last in pieces:
            if isinstance(last, Text):
                text.append(last.text)
            elif isinstance(last, Thought):
                thoughts.append(last.text)
    reply = shape(last)
    if isinstance(reply, ChatReply):
        reply.message.content, reply.message.thinking = "".join(text), "".join(thoughts)
    else:
        reply.response, reply.thinking = "".join(text), "".join(thoughts)
    return reply


def _chat_reply(model: str, piece: Piece, began_ns: int) -> ChatReply:
    message = Message(role="assistant", content="")
    reply = ChatReply(model=model, created_at=datetime.now(UTC), message=message, done=False)
    match piece:
        case Text(text):
            message.content = text
        case Thought(text):
            message.thinking = text
        case Finished():
            message.tool_calls = list(piece.calls)
            _finish(reply, piece, began_ns)
    return reply


def _generate_reply(model: str, piece: Piece, began_ns: int) -> GenerateReply:
    reply = GenerateReply(model=model, created_at=datetime.now(UTC), response="", done=False)
    match piece:
        case Text(text):
            reply.response = text
        case Thought(text):
            reply.thinking = text
        case Finished():
            reply.context = list(piece.context)
            _finish(reply, piece, began_ns)
    return reply


def _finish(reply: CompletionReply, piece: Finished, began_ns: int) -> None:
    reply.done = True
    reply.done_reason = piece.reason
    reply.total_duration = time.perf_counter_ns() - began_ns
    reply.load_duration = piece.load_ns
    reply.prompt_eval_count = piece.prompt_eval_count
    reply.prompt_eval_duration = piece.prompt_eval_ns
    reply.eval_count = piece.eval_count
    reply.eval_duration = piece.eval_ns


def _empty_chat(model: str, reason: str) -> ChatReply:
    message = Message(role="assistant", content="")
    return ChatReply(
        model=model, created_at=datetime.now(UTC), message=message, done=True, done_reason=reason
    )


def _empty_generate(model: str, reason: str) -> GenerateReply:
    return GenerateReply(
        model=model, created_at=datetime.now(UTC), response="", done=True, done_reason=reason
    )
