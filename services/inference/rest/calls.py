"""What both REST dialects do with the gateway. A request is checked as one over gRPC is: it becomes that request."""

from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from services.common.errors import InvalidRequest
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.common.grpc.validation import check
from services.inference.core.asks import Chat, Generate
from services.inference.core.bounds import Bounds, Policies
from services.inference.core.ledger import Model
from services.inference.core.names import key
from services.inference.engine import Terms
from services.inference.errors import ModelNotFound, NoInstance
from services.inference.gateway import Gateway, Stream
from services.inference.rest.wire import Names, renamed
from services.inference.wire import requests
from services.inference.wire.frames import frame
from services.inference.work import Embedded

STREAM_HEADER, CACHE_HEADER = "x-ollamesh-stream", "x-ollamesh-cache"
_CACHE = {
    pb.ANSWER_SOURCE_MODEL: "bypass",
    pb.ANSWER_SOURCE_JOINED: "join",
    pb.ANSWER_SOURCE_CACHE: "hit",
}
_WARM_UP = "Hi"  # What is asked of a model that is only to be loaded.
PAGE_SIZE = 1000

Event = pb.CompletionEvent
Delta = pb.CompletionEvent.Delta
Finished = pb.CompletionEvent.Finished


def says_nothing(message: pb.Message) -> bool:
    """Whether a message may as well not be there: a model that said nothing is history too, but no prompt."""
    may_be_empty = message.role in {pb.ROLE_ASSISTANT, pb.ROLE_SYSTEM}
    return may_be_empty and not (message.content or message.images or message.tool_calls)


class Answer:
    """A completion that was accepted, read from its first piece on: what comes before is for headers."""

    def __init__(self, stream: Stream[bytes], context: Context) -> None:
        self._stream, self._context = stream, context
        self._first: Event | None = None
        self._source = pb.ANSWER_SOURCE_MODEL
        self.stream_id = self.model_digest = ""

    async def begin(self) -> None:
        """Return when there is something to tell; raise why there is nothing."""
        while (event := await self._next()) is not None:
            match event.WhichOneof("event"):
                case "opened":
                    self.stream_id = event.opened.stream_id
                case "started":
                    self._source, self.model_digest = event.started.source, event.started.model_digest
                case "delta" | "finished":
                    self._first = event
                    return
                case _:
                    pass

    async def send_headers(self) -> None:
        """Send what can only be said before the body. A failure that comes later has no status."""
        headers = ((STREAM_HEADER, self.stream_id), (CACHE_HEADER, _CACHE[self._source]))
        await self._context.send_initial_metadata(headers)

    async def read(self) -> Event | None:
        """Return the next Delta or Finished, None after the latter; raise how it failed."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._next()

    async def _next(self) -> Event | None:
        received = await self._stream.read()
        return None if received is None else pb.ChatResponse.FromString(received).event


class Calls:
    """One dialect's way to the gateway. `names` are the dialect's own for the fields of our requests."""

    def __init__(self, gateway: Gateway, policies: Policies, names: Names) -> None:
        self.gateway = gateway
        self._policies = policies
        self._names = names

    async def chat(self, request: pb.ChatRequest, context: Context, *, names: Names = ()) -> Answer:
        """`names` are those that fields have in this call alone."""
        try:
            check(request)
            return await self._opened(requests.chat(request), request.priority, context)
        except InvalidRequest as error:
            raise renamed(error, [*names, *self._names]) from None

    async def generate(self, request: pb.GenerateRequest, context: Context, *, names: Names = ()) -> Answer:
        try:
            check(request)
            return await self._opened(requests.generate(request), request.priority, context)
        except InvalidRequest as error:
            raise renamed(error, [*names, *self._names]) from None

    async def embed(self, request: EmbedRequest, context: Context) -> Embedded:
        try:
            check(request)
            bounds = self._bounds()
            terms = self._terms(request.priority, bounds, context)
            return await self.gateway.embed(requests.embed(request), terms, bounds)
        except InvalidRequest as error:
            raise renamed(error, self._names) from None

    async def load(self, model: str, context: Context, *, embeds: bool = False) -> None:
        """Return when the model is in memory somewhere. The least work brings it there, if it is nowhere."""
        if self.model(model).resident_instances:
            return
        if embeds:
            await self.embed(EmbedRequest(model=model, input=[_WARM_UP]), context)
            return
        request = pb.GenerateRequest(model=model, prompt=_WARM_UP, raw=True)
        request.options.output_token_count_max = 1
        answer = await self.generate(request, context)
        while await answer.read() is not None:
            pass

    def model(self, name: str) -> Model:
        """Return what the fleet knows of a model, or raise that it has none."""
        found = self.gateway.ledger.model(key(name))
        if found is None:
            raise ModelNotFound(model=name) if self.gateway.ledger.any_ready() else NoInstance(model=name)
        return found

    def models(self) -> list[Model]:
        """Return all models that the caller may use."""
        found, more = self.gateway.models(after="", count_max=PAGE_SIZE)
        while more:
            page, more = self.gateway.models(after=key(found[-1].card.name), count_max=PAGE_SIZE)
            found += page
        return found

    async def _opened(self, ask: Chat | Generate, priority: pb.Priority, context: Context) -> Answer:
        bounds = self._bounds()
        stream = await self.gateway.open(ask, self._terms(priority, bounds, context), bounds, seal=frame)
        # Runs however the call ends. A reader that leaves ends the stream: Envoy cancels the call at once.
        context.add_done_callback(lambda _: stream.close())  # type: ignore[arg-type]
        return Answer(stream, context)

    def _terms(self, priority: pb.Priority, bounds: Bounds, context: Context) -> Terms:
        return requests.terms(
            caller().organization_id, priority, bounds, remaining_s=context.time_remaining()
        )

    def _bounds(self) -> Bounds:
        found = caller()
        return self._policies.bounds([found.role.value, *(["service"] if found.is_service else [])])
