"""The wire on one side, the gateway on the other; decides nothing."""

from collections.abc import AsyncIterator

from ollamesh.inference.v1.completion_pb2 import ChatRequest, GenerateRequest
from ollamesh.inference.v1.fleet_pb2 import (
    GetFleetRequest,
    GetFleetResponse,
    WatchFleetRequest,
    WatchFleetResponse,
)
from ollamesh.inference.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedResponse,
    PurgeCacheRequest,
    PurgeCacheResponse,
)
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer
from ollamesh.inference.v1.model_pb2 import (
    GetModelRequest,
    GetModelResponse,
    ListModelsRequest,
    ListModelsResponse,
)

from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.inference.core import asks
from services.inference.core.bounds import Bounds, Policies
from services.inference.core.names import key
from services.inference.fleet_watch import FleetWatch
from services.inference.gateway import Gateway, Stream
from services.inference.wire import events, listings, requests
from services.inference.wire.frames import frame

PAGE_SIZE = 100


class InferenceServicer(InferenceServiceServicer):
    """The methods that this version serves; the generated base answers for the others."""

    def __init__(self, gateway: Gateway, policies: Policies, fleet_watch: FleetWatch) -> None:
        self._gateway = gateway
        self._policies = policies
        self._fleet_watch = fleet_watch

    # The two hot ones yield responses that are serialised already (wire/frames.py).

    async def Chat(  # type: ignore[override]
        self, request: ChatRequest, context: Context
    ) -> AsyncIterator[bytes]:
        stream = await self._opened(requests.chat(request), request, context)
        del request  # It may be large, and the stream may be long.
        while (response := await stream.read()) is not None:
            yield response

    async def Generate(  # type: ignore[override]
        self, request: GenerateRequest, context: Context
    ) -> AsyncIterator[bytes]:
        stream = await self._opened(requests.generate(request), request, context)
        del request
        while (response := await stream.read()) is not None:
            yield response

    async def Embed(self, request: EmbedRequest, context: Context) -> EmbedResponse:
        bounds = self._bounds()
        terms = requests.terms(
            caller().organization_id, request.priority, bounds, remaining_s=context.time_remaining()
        )
        policy = requests.CACHE_POLICIES[request.cache_policy]
        answer = await self._gateway.embed(requests.embed(request), terms, bounds, policy)
        return events.embed_response(answer)

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        after = requests.page_token(request.page_token)
        found, more = self._gateway.models(after=after, count_max=request.page_size or PAGE_SIZE)
        return ListModelsResponse(
            models=[listings.model(model, self._gateway.catalog) for model in found],
            next_page_token=requests.next_page_token(key(found[-1].card.name)) if more else "",
        )

    async def GetModel(self, request: GetModelRequest, context: Context) -> GetModelResponse:
        model, description = await self._gateway.describe(request.model)
        return listings.described(model, description, self._gateway.catalog)

    async def GetFleet(self, request: GetFleetRequest, context: Context) -> GetFleetResponse:
        return GetFleetResponse(fleet=listings.fleet(await self._gateway.fleet()))

    async def WatchFleet(
        self, request: WatchFleetRequest, context: Context
    ) -> AsyncIterator[WatchFleetResponse]:
        reader = self._fleet_watch.reader()
        context.add_done_callback(lambda _: reader.close())  # type: ignore[arg-type]
        while (state := await reader.read()) is not None:
            yield WatchFleetResponse(fleet=state)

    async def PurgeCache(self, request: PurgeCacheRequest, context: Context) -> PurgeCacheResponse:
        # Done again it only forgets more, so a `request_id` need not be remembered.
        await self._gateway.purge_cache(caller().organization_id, request.model)
        return PurgeCacheResponse()

    async def _opened(
        self, ask: asks.Chat | asks.Generate, request: ChatRequest | GenerateRequest, context: Context
    ) -> Stream[bytes]:
        bounds = self._bounds()
        terms = requests.terms(
            caller().organization_id,
            request.priority,
            bounds,
            queue_timeout=request.queue_timeout,
            remaining_s=context.time_remaining(),
        )
        stream = await self._gateway.open(ask, terms, bounds, seal=frame, by_token=request.delta_per_token)
        # Runs however the call ends: finished, refused, cancelled while waiting or during a write.
        context.add_done_callback(lambda _: stream.close())  # type: ignore[arg-type]
        return stream

    def _bounds(self) -> Bounds:
        found = caller()
        return self._policies.bounds([found.role.value, *(["service"] if found.is_service else [])])
