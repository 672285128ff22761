"""OpenAI's API on one side, the gateway on the other; decides nothing."""

from collections.abc import AsyncIterator

from google.api.httpbody_pb2 import HttpBody
from ollamesh.compat.openai.v1 import openai_service_pb2 as pb
from ollamesh.compat.openai.v1.openai_service_pb2_grpc import OpenAIServiceServicer

from services.common.grpc.around import Context
from services.inference.core.bounds import Policies
from services.inference.gateway import Gateway
from services.inference.rest import openai_errors, openai_replies, openai_requests
from services.inference.rest.bodies import EVENTS, JSON, first_part, json_body, part
from services.inference.rest.calls import Answer, Calls
from services.inference.rest.openai_replies import Chunks
from services.inference.rest.openai_schemas import ChatCall, CompletionCall, EmbeddingCall
from services.inference.rest.refusals import told_in_band
from services.inference.rest.whole import gathered
from services.inference.rest.wire import messages_at, parsed

Body = AsyncIterator[bytes]  # Parts of HttpBody, serialised.


class OpenAIServicer(OpenAIServiceServicer):
    """What fails before the first part is answered around this (refusals.py)."""

    def __init__(self, gateway: Gateway, policies: Policies) -> None:
        self._calls = Calls(gateway, policies, openai_requests.NAMES)

    async def CreateChatCompletion(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, ChatCall)
        del request  # It may be large, and the stream may be long.
        wanted, places = openai_requests.chat(call)
        names = [*messages_at(places), *openai_requests.names(call)]
        answer = await self._calls.chat(wanted, context, names=names)
        model, streamed, usage = call.model, bool(call.stream), call.include_usage
        del call, wanted
        await answer.begin()
        chunks = Chunks(answer, model, chat=True, usage=usage)
        async for one in _told(answer, chunks, streamed=streamed):
            yield one

    async def CreateCompletion(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, CompletionCall)
        del request
        answer = await self._calls.generate(openai_requests.completion(call), context)
        model, streamed, usage = call.model, bool(call.stream), call.include_usage
        del call
        await answer.begin()
        chunks = Chunks(answer, model, chat=False, usage=usage)
        async for one in _told(answer, chunks, streamed=streamed):
            yield one

    async def CreateEmbedding(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, EmbeddingCall)
        found = await self._calls.embed(openai_requests.embedding(call), context)
        as_base64 = call.encoding_format == "base64"
        yield json_body(openai_replies.embeddings(call.model, found, as_base64=as_base64))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> Body:
        yield json_body(openai_replies.models(model.card for model in self._calls.models()))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> Body:
        yield json_body(openai_replies.model(self._calls.model(request.model).card))


async def _told(answer: Answer, chunks: Chunks, *, streamed: bool) -> Body:
    """The parts of an answer: events, or one object."""
    if not streamed:
        whole, finished = await gathered(answer)
        await answer.send_headers()
        yield first_part(JSON, chunks.whole(whole, finished))
        return
    await answer.send_headers()
    async for one in told_in_band(_events(answer, chunks), lambda error: part(openai_errors.event(error))):
        yield one


async def _events(answer: Answer, chunks: Chunks) -> Body:
    event = await answer.read()
    assert event is not None, "an answer that began has something to tell"
    yield first_part(EVENTS, chunks.first() + chunks.events(event))
    while (event := await answer.read()) is not None:
        if events := chunks.events(event):
            yield part(events)
