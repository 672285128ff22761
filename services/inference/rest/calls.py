"""What both REST dialects do with the gateway. A request is checked as one over gRPC is: it becomes that request."""

from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from services.common.errors import InvalidRequest
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.common.grpc.validation import check
from services.common.screening import FLAG_HEADER
from services.inference.core.allowed import Allowed
from services.inference.core.asks import Chat, Generate
from services.inference.core.bounds import Bounds, Policies
from services.inference.core.caching import may_look
from services.inference.core.callers import CachePolicy, Wishes
from services.inference.core.ledger import InstanceView, Model
from services.inference.core.names import key
from services.inference.embeddings import Answer as Embedded
from services.inference.engine import Terms
from services.inference.errors import ModelNotAllowed, ModelNotFound, NoInstance
from services.inference.gateway import Gateway
from services.inference.rest.wire import Names, renamed
from services.inference.streams.means import Stream
from services.inference.who import bounds_of_caller, principal
from services.inference.wire import requests

STREAM_HEADER, CACHE_HEADER = "x-ollamesh-stream", "x-ollamesh-cache"
HIT, MISS, JOIN, BYPASS = "hit", "miss", "join", "bypass"
_SHARED = {pb.ANSWER_SOURCE_JOINED: JOIN, pb.ANSWER_SOURCE_CACHE: HIT}
_WARM_UP = "Hi"  # What is asked of a model that is only to be loaded.
PAGE_SIZE = 1000

Request = pb.ChatRequest | pb.GenerateRequest
Event = pb.CompletionEvent
Delta = pb.CompletionEvent.Delta
Finished = pb.CompletionEvent.Finished


def says_nothing(message: pb.Message) -> bool:
    """Whether a message may as well not be there: a model that said nothing is history too, but no prompt."""
    may_be_empty = message.role in {pb.ROLE_ASSISTANT, pb.ROLE_SYSTEM}
    return may_be_empty and not (message.content or message.images or message.tool_calls)


class Answer:
    """A completion that was accepted, read from its first piece on: what comes before is for headers."""

    def __init__(self, stream: Stream, context: Context, *, looked: bool) -> None:
        """`looked` tells whether the cache was asked for it."""
        self._stream, self._context = stream, context
        self._first: Event | None = None
        self._source = pb.ANSWER_SOURCE_MODEL
        self._otherwise = MISS if looked else BYPASS
        self.stream_id = stream.stream_id
        self.model_digest = ""

    async def begin(self) -> None:
        """Return when there is something to tell; raise why there is nothing."""
        while (event := await self._next()) is not None:
            match event.WhichOneof("event"):
                case "started":
                    self._source, self.model_digest = event.started.source, event.started.model_digest
                case "delta" | "finished":
                    self._first = event
                    return
                case _:
                    pass

    async def send_headers(self) -> None:
        """Send what can only be said before the body. A failure that comes later has no status."""
        source = _SHARED.get(self._source, self._otherwise)
        flags = (FLAG_HEADER,) if self._stream.flagged else ()
        headers = ((STREAM_HEADER, self.stream_id), (CACHE_HEADER, source), *flags)
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
            return await self._opened(requests.chat(request), request, context)
        except InvalidRequest as error:
            raise renamed(error, [*names, *self._names]) from None

    async def generate(self, request: pb.GenerateRequest, context: Context, *, names: Names = ()) -> Answer:
        try:
            check(request)
            return await self._opened(requests.generate(request), request, context)
        except InvalidRequest as error:
            raise renamed(error, [*names, *self._names]) from None

    async def embed(self, request: EmbedRequest, context: Context) -> Embedded:
        """Return the vectors, with the headers that go before them sent."""
        try:
            check(request)
            bounds = bounds_of_caller(self._policies)
            terms = self._terms(request.priority, bounds, context)
            found = await self.gateway.embed(requests.embed(request), principal(), terms, bounds)
        except InvalidRequest as error:
            raise renamed(error, self._names) from None
        else:
            await context.send_initial_metadata(((CACHE_HEADER, self._source_of(found)),))
            return found

    async def load(self, name: str, context: Context, *, embeds: bool = False) -> None:
        """Return when the model is in memory somewhere. The least work brings it there, if it is nowhere."""
        if self.model(name).resident_instances:
            return
        if embeds:
            bounds = bounds_of_caller(self._policies)
            ask = requests.embed(EmbedRequest(model=name, input=[_WARM_UP]))
            terms = self._terms(pb.PRIORITY_UNSPECIFIED, bounds, context)
            await self.gateway.embed(ask, principal(), terms, bounds, CachePolicy.NEVER)
            return
        request = pb.GenerateRequest(
            model=name, prompt=_WARM_UP, raw=True, cache_policy=pb.CACHE_POLICY_NEVER
        )
        request.options.output_token_count_max = 1
        answer = await self.generate(request, context)
        while await answer.read() is not None:
            pass

    def model(self, name: str) -> Model:
        """Return what the fleet knows of a model. To those who may not use it, there is none."""
        found = self.gateway.ledger.model(key(name)) if self.allowed().names(key(name)) else None
        if found is None:
            raise ModelNotFound(model=name) if self.gateway.ledger.any_ready() else NoInstance(model=name)
        return found

    def models(self) -> list[Model]:
        """Return all models that the caller may use."""
        allowed = self.allowed()
        found, more = self.gateway.models(after="", count_max=PAGE_SIZE, allowed=allowed)
        while more:
            after = key(found[-1].card.name)
            page, more = self.gateway.models(after=after, count_max=PAGE_SIZE, allowed=allowed)
            found += page
        return found

    def views(self) -> list[InstanceView]:
        return self.gateway.ledger.views()

    def check_allowed(self, *names: object) -> None:
        """Raise ModelNotAllowed if the caller may not use one of those that are names."""
        allowed = self.allowed()
        for name in names:
            if isinstance(name, str) and not allowed.names(key(name)):
                raise ModelNotAllowed(model=name)

    def allowed(self) -> Allowed:
        return self.gateway.allowed(caller().organization_id, bounds_of_caller(self._policies))

    async def _opened(self, ask: Chat | Generate, request: Request, context: Context) -> Answer:
        bounds = bounds_of_caller(self._policies)
        terms = self._terms(request.priority, bounds, context)
        # Who reads REST cannot come back for the rest, so what nobody reads any more ends at once.
        wishes = Wishes(cache_policy=requests.CACHE_POLICIES[request.cache_policy], linger_s=0.0)
        stream = await self.gateway.open(ask, principal(), terms, bounds, wishes=wishes)
        # Runs however the call ends. A reader that leaves ends the stream: Envoy cancels the call at once.
        context.add_done_callback(lambda _: stream.close())  # type: ignore[arg-type]
        looked = self.gateway.cache is not None and may_look(ask, wishes.cache_policy)
        return Answer(stream, context, looked=looked)

    def _terms(self, priority: pb.Priority, bounds: Bounds, context: Context) -> Terms:
        return requests.terms(
            caller().organization_id, priority, bounds, remaining_s=context.time_remaining()
        )

    def _source_of(self, found: Embedded) -> str:
        """Where vectors come from: all of them, or what had to be asked for."""
        if self.gateway.cache is not None:
            return HIT if found.cached_count == len(found.vectors) else MISS
        return BYPASS
