"""Ollama's API on one side, the gateway on the other; decides nothing."""

from collections.abc import AsyncIterator
from time import perf_counter_ns

from google.api.httpbody_pb2 import HttpBody
from ollamesh.compat.ollama.v1 import ollama_service_pb2 as pb
from ollamesh.compat.ollama.v1.ollama_service_pb2_grpc import OllamaServiceServicer

from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.common.tokens import Role
from services.inference.acts import Acts
from services.inference.core.bounds import Policies
from services.inference.downloads import Done, Watch
from services.inference.gateway import Gateway
from services.inference.library import Library
from services.inference.rest import ollama_errors, ollama_listings, ollama_requests
from services.inference.rest.bodies import JSON, NDJSON, PLAIN, encode, first_part, json_body, part
from services.inference.rest.calls import Answer, Calls
from services.inference.rest.ollama_replies import Lines, embedded
from services.inference.rest.ollama_requests import (
    ChatCall,
    CompletionCall,
    CopyCall,
    EmbedCall,
    EmbedPromptCall,
    GenerateCall,
    NamedCall,
)
from services.inference.rest.refusals import STATUS_HEADER, told_in_band
from services.inference.rest.whole import gathered
from services.inference.rest.wire import messages_at, parsed, wrong

SUCCESS = "success"
Body = AsyncIterator[bytes]  # Parts of HttpBody, serialised.


class OllamaServicer(OllamaServiceServicer):
    """What fails before the first part is answered around this (refusals.py)."""

    def __init__(self, gateway: Gateway, policies: Policies, acts: Acts) -> None:
        self._acts = acts
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
            with ollama_errors.of_generate():
                loaded = await self._loaded(call, lines, context)
            yield first_part(JSON, loaded)
            return
        with ollama_errors.of_generate():
            answer = await self._calls.generate(ollama_requests.generate(call), context)
        streamed = call.streamed
        del call
        async for one in _told(answer, lines, streamed=streamed):
            yield one

    async def Embed(self, request: HttpBody, context: Context) -> Body:
        began_ns = perf_counter_ns()
        call = ollama_requests.read(request.data, EmbedCall)
        if not call.texts:
            await self._calls.load(call.model, context, embeds=True)
            yield json_body({"model": call.model, "embeddings": []})
            return
        found = await self._calls.embed(ollama_requests.embed(call), context)
        yield json_body(embedded(call.model, found, perf_counter_ns() - began_ns))

    async def EmbedPrompt(self, request: HttpBody, context: Context) -> Body:
        call = ollama_requests.read(request.data, EmbedPromptCall)
        if not call.prompt:
            await self._calls.load(call.model, context, embeds=True)
            yield json_body({"embedding": []})
            return
        found = await self._calls.embed(ollama_requests.embed_prompt(call), context)
        yield json_body({"embedding": list(found.vectors[0])})

    async def ListTags(self, request: pb.ListTagsRequest, context: Context) -> Body:
        yield json_body(ollama_listings.tags(self._calls.models()))

    async def ListRunning(self, request: pb.ListRunningRequest, context: Context) -> Body:
        yield json_body(ollama_listings.running(self._calls.views(), self._calls.allowed()))

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> Body:
        yield json_body(ollama_listings.version(self._calls.views()))

    async def Show(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, NamedCall)
        self._calls.model(call.target)
        yield json_body(await self._library.show(call.target, verbose=call.verbose or False))

    # What only admins may do.

    async def Pull(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, NamedCall)
        await self._acts.model("pull", call.target)
        watch = self._library.pull(call.target, insecure=call.insecure or False)
        async for one in _progress(watch, context, streamed=call.stream is not False):
            yield one

    async def Create(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, NamedCall)
        recipe = {
            name: value
            for name, value in parsed(request.data, dict[str, object]).items()
            if name not in {"name", "stream"}
        }
        self._calls.check_allowed(call.target, recipe.get("from"))
        await self._acts.model("create", call.target)
        watch = self._library.create(call.target, {**recipe, "model": call.target})
        async for one in _progress(watch, context, streamed=call.stream is not False):
            yield one

    async def Push(self, request: HttpBody, context: Context) -> Body:
        if parsed(request.data, NamedCall).target:
            raise wrong("", "push is not supported here: the fleet publishes nothing")
        yield b""  # Never; it makes this a stream.

    async def Delete(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, NamedCall)
        await self._acts.model("delete", call.target)
        await self._library.delete(call.target)
        yield first_part(PLAIN, b"")

    async def Copy(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, CopyCall)
        await self._acts.model(f"copy {call.source}", call.destination)
        await self._calls.gateway.copy(call.source, call.destination, self._calls.allowed())
        yield first_part(PLAIN, b"")

    async def CheckBlob(self, request: pb.CheckBlobRequest, context: Context) -> Body:
        if not await self._library.has_blob(request.digest):
            await context.send_initial_metadata(((STATUS_HEADER, "404"),))
        yield first_part(PLAIN, b"")

    async def PutBlob(self, request_iterator: AsyncIterator[pb.PutBlobRequest], context: Context) -> Body:
        parts = aiter(request_iterator)
        first = await anext(parts)
        await self._acts.model("put blob", first.digest)
        await self._library.put_blob(first.digest, _bytes(first, parts))
        await context.send_initial_metadata(((STATUS_HEADER, "201"),))
        yield first_part(PLAIN, b"")

    @property
    def _library(self) -> Library:
        return self._calls.gateway.library

    async def _loaded(self, call: CompletionCall, lines: Lines, context: Context) -> bytes:
        """Load, or say that the model may go. It goes at once for an admin: others use what a user has no more use for."""
        if call.unloads:
            self._calls.model(call.model)
            if caller().role is Role.ADMIN:
                await self._acts.model("unload", call.model)
                await self._library.unload(call.model)
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


async def _progress(watch: Watch, context: Context, *, streamed: bool) -> Body:
    """The parts of what is fetched or made: lines that tell how far that is, or one that tells the end."""
    context.add_done_callback(lambda _: watch.close())  # type: ignore[arg-type]
    if not streamed:
        while await watch.read() is not None:
            pass
        yield json_body({"status": SUCCESS})
        return
    async for one in told_in_band(_steps(watch), lambda error: part(ollama_errors.line(error))):
        yield one


async def _steps(watch: Watch) -> Body:
    """An instance's own success is not told: the fleet's is, once it shows the model."""
    content_type = NDJSON
    while (told := await watch.read()) is not None:
        step = {"status": SUCCESS} if isinstance(told, Done) else ollama_listings.step(told.progress)
        if isinstance(told, Done) or step["status"] != SUCCESS:
            line = encode(step) + b"\n"
            yield first_part(content_type, line) if content_type else part(line)
            content_type = ""


async def _bytes(first: pb.PutBlobRequest, others: AsyncIterator[pb.PutBlobRequest]) -> AsyncIterator[bytes]:
    yield first.body.data
    async for one in others:
        yield one.body.data
