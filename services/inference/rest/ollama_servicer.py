"""Ollama's API on one side, the gateway on the other; decides nothing."""

import time
from collections.abc import AsyncIterator

from google.api.httpbody_pb2 import HttpBody
from ollamesh.compat.ollama.v1 import ollama_service_pb2 as pb
from ollamesh.compat.ollama.v1.ollama_service_pb2_grpc import OllamaServiceServicer

from services.common.grpc.around import Context
from services.inference.core.bounds import Policies
from services.inference.gateway import Gateway
from services.inference.rest import ollama_errors, ollama_listings, ollama_requests
from services.inference.rest.bodies import JSON, NDJSON, first_part, json_body, part
from services.inference.rest.calls import Answer, Calls
from services.inference.rest.ollama_replies import Lines, embedded
from services.inference.rest.ollama_requests import (
    ChatCall,
    CompletionCall,
    EmbedCall,
    EmbedPromptCall,
    GenerateCall,
    NamedCall,
)
from services.inference.rest.refusals import told_in_band
from services.inference.rest.whole import gathered
from services.inference.rest.wire import messages_at, parsed

Body = AsyncIterator[bytes]  # Parts of HttpBody, serialised.


class OllamaServicer(OllamaServiceServicer):
    """What fails before the first part is answered around this (refusals.py)."""

    def __init__(self, gateway: Gateway, policies: Policies) -> None:
        self._calls = Calls(gateway, policies, ollama_requests.NAMES)

    async def Chat(self, request: HttpBody, context: Context) -> Body:
        call = ollama_requests.read(request.data, ChatCall)
        del request  # It may be large, and the stream may be long.
        lines = Lines(call.model, chat=True)
        if not call.messages:
            yield first_part(JSON, await self._loaded(call, lines, context))
            return
        wanted, places = ollama_requests.chat(call)
        answer = await self._calls.chat(wanted, context, names=messages_at(places))
        streamed = call.streamed
        del call, wanted
        async for one in _told(answer, lines, streamed=streamed):
            yield one

    async def Generate(self, request: HttpBody, context: Context) -> Body:
        call = ollama_requests.read(request.data, GenerateCall)
        del request
        lines = Lines(call.model, chat=False)
        if not call.prompt:
            yield first_part(JSON, await self._loaded(call, lines, context))
            return
        answer = await self._calls.generate(ollama_requests.generate(call), context)
        streamed = call.streamed
        del call
        async for one in _told(answer, lines, streamed=streamed):
            yield one

    async def Embed(self, request: HttpBody, context: Context) -> Body:
        began_ns = time.perf_counter_ns()
        call = ollama_requests.read(request.data, EmbedCall)
        if not call.texts:
            await self._calls.load(call.model, context, embeds=True)
            yield json_body({"model": call.model, "embeddings": []})
            return
        found = await self._calls.embed(ollama_requests.embed(call), context)
        yield json_body(embedded(call.model, found.vectors, time.perf_counter_ns() - began_ns))

    async def EmbedPrompt(self, request: HttpBody, context: Context) -> Body:
        call = ollama_requests.read(request.data, EmbedPromptCall)
        if not call.prompt:
            await self._calls.load(call.model, context, embeds=True)
            yield json_body({"embedding": []})
            return
        found = await self._calls.embed(ollama_requests.embed_prompt(call), context)
        yield json_body({"embedding": found.vectors.vectors[0]})

    async def ListTags(self, request: pb.ListTagsRequest, context: Context) -> Body:
        yield json_body(ollama_listings.tags(self._calls.models()))

    async def ListRunning(self, request: pb.ListRunningRequest, context: Context) -> Body:
        yield json_body(ollama_listings.running(self._calls.gateway.ledger.views()))

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> Body:
        yield json_body(ollama_listings.version(self._calls.gateway.ledger.views()))

    async def Show(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, NamedCall)
        model, description = await self._calls.gateway.describe(call.target)
        yield json_body(ollama_listings.shown(model, description))

    async def _loaded(self, call: CompletionCall, lines: Lines, context: Context) -> bytes:
        """Load, or say that the model may go: what is loaded is the gateway's decision, so nobody unloads for others."""
        if call.unloads:
            self._calls.model(call.model)
            return lines.loaded("unload")
        await self._calls.load(call.model, context)
        return lines.loaded("load")


async def _told(answer: Answer, lines: Lines, *, streamed: bool) -> Body:
    """The parts of an answer: a line for each event, or one object."""
    await answer.begin()
    if not streamed:
        whole, finished = await gathered(answer)
        await answer.send_headers()
        yield first_part(JSON, lines.whole(whole, finished))
        return
    await answer.send_headers()
    async for one in told_in_band(_lines(answer, lines), lambda error: part(ollama_errors.line(error))):
        yield one


async def _lines(answer: Answer, lines: Lines) -> Body:
    event = await answer.read()
    assert event is not None, "an answer that began has something to tell"
    yield first_part(NDJSON, lines.line(event))
    while (event := await answer.read()) is not None:
        yield part(lines.line(event))
