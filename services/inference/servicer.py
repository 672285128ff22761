"""The wire on one side, the gateway on the other; decides nothing."""

import datetime as dt
from collections.abc import AsyncIterator
from functools import partial

from ollamesh.inference.v1.completion_pb2 import (
    CancelStreamRequest,
    CancelStreamResponse,
    ChatRequest,
    GenerateRequest,
    ResumeStreamRequest,
)
from ollamesh.inference.v1.fleet_pb2 import (
    GetFleetRequest,
    GetFleetResponse,
    WatchFleetRequest,
    WatchFleetResponse,
)
from ollamesh.inference.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedResponse,
    GetUsageRequest,
    GetUsageResponse,
    PurgeCacheRequest,
    PurgeCacheResponse,
)
from ollamesh.inference.v1.model_pb2 import (
    CopyModelRequest,
    CopyModelResponse,
    DeleteModelRequest,
    DeleteModelResponse,
    GetModelRequest,
    GetModelResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    PullModelRequest,
    PullModelResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)

from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.common.screening import FLAG_HEADER
from services.inference.accounts import Accounts, NoAccounts
from services.inference.acts import Acts
from services.inference.batches.servicer import BatchDesk, BatchMethods
from services.inference.core import asks
from services.inference.core.allowed import ALL, Allowed
from services.inference.core.bounds import Bounds, Policies
from services.inference.core.ledger import Model
from services.inference.core.names import key
from services.inference.descriptions import Contexts
from services.inference.fleet_watch import FleetWatch
from services.inference.gateway import Gateway
from services.inference.once import Once
from services.inference.ports import Description
from services.inference.streams.means import Stream
from services.inference.who import bounds_of_caller, principal
from services.inference.wire import events, listings, requests, usage

PAGE_SIZE = 100


class InferenceServicer(BatchMethods):
    """The methods that this version serves; the generated base answers for the others."""

    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        gateway: Gateway,
        policies: Policies,
        fleet_watch: FleetWatch,
        accounts: Accounts | NoAccounts,
        desk: BatchDesk | None = None,
        *,
        acts: Acts,
        linger_s: float,
    ) -> None:
        """`linger_s` is for who says nothing of it."""
        self._gateway = gateway
        self._acts = acts
        self._linger_s = linger_s
        self._policies = policies
        self._fleet_watch = fleet_watch
        self._accounts = accounts
        self._contexts = Contexts(self._description)
        self._deletions = Once()  # The others do no harm when they are repeated.
        self._desk = desk

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

    async def ResumeStream(  # type: ignore[override]
        self, request: ResumeStreamRequest, context: Context
    ) -> AsyncIterator[bytes]:
        stream = await self._gateway.streams.resume(
            principal(), request.stream_id, after=request.after_sequence
        )
        context.add_done_callback(lambda _: stream.close())  # type: ignore[arg-type]
        while (response := await stream.read()) is not None:
            yield response

    async def CancelStream(self, request: CancelStreamRequest, context: Context) -> CancelStreamResponse:
        await self._gateway.streams.cancel(principal(), request.stream_id)
        return CancelStreamResponse()

    async def Embed(self, request: EmbedRequest, context: Context) -> EmbedResponse:
        bounds = self._bounds()
        terms = requests.terms(
            caller().organization_id, request.priority, bounds, remaining_s=context.time_remaining()
        )
        policy = requests.CACHE_POLICIES[request.cache_policy]
        answer = await self._gateway.embed(requests.embed(request), principal(), terms, bounds, policy)
        return events.embed_response(answer)

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        after = requests.page_token(request.page_token)
        found, more = self._gateway.models(
            after=after, count_max=request.page_size or PAGE_SIZE, allowed=self._allowed()
        )
        contexts = await self._contexts.of(found)
        return ListModelsResponse(
            models=[
                listings.model(
                    model,
                    self._gateway.catalog,
                    context_token_count_max=contexts.get(model.card.digest, 0),
                )
                for model in found
            ],
            next_page_token=requests.next_page_token(key(found[-1].card.name)) if more else "",
        )

    async def GetModel(self, request: GetModelRequest, context: Context) -> GetModelResponse:
        model, description = await self._gateway.describe(request.model, self._allowed())
        return listings.described(model, description, self._gateway.catalog)

    async def PullModel(
        self, request: PullModelRequest, context: Context
    ) -> AsyncIterator[PullModelResponse]:
        await self._acts.model("pull", request.model)
        watch = self._gateway.library.pull(request.model, request.instances)
        context.add_done_callback(lambda _: watch.close())  # type: ignore[arg-type]
        while (told := await watch.read()) is not None:
            yield listings.pulled(told, self._gateway.catalog)

    async def DeleteModel(self, request: DeleteModelRequest, context: Context) -> DeleteModelResponse:
        await self._acts.model("delete", request.model)
        await self._deletions.do(
            principal(),
            request.request_id,
            request.SerializeToString(deterministic=True),
            partial(self._gateway.library.delete, request.model),
        )
        return DeleteModelResponse()

    async def CopyModel(self, request: CopyModelRequest, context: Context) -> CopyModelResponse:
        await self._acts.model(f"copy {request.source}", request.destination)
        copy = await self._gateway.copy(request.source, request.destination, self._allowed())
        return CopyModelResponse(model=listings.model(copy, self._gateway.catalog))

    async def LoadModel(self, request: LoadModelRequest, context: Context) -> LoadModelResponse:
        await self._acts.model("load", request.model)
        instance = await self._gateway.load(
            request.model, request.instance, pin=request.pin, allowed=self._allowed()
        )
        return LoadModelResponse(instance=instance)

    async def UnloadModel(self, request: UnloadModelRequest, context: Context) -> UnloadModelResponse:
        await self._acts.model("unload", request.model)
        await self._gateway.library.unload(request.model, request.instance)
        return UnloadModelResponse()

    async def GetFleet(self, request: GetFleetRequest, context: Context) -> GetFleetResponse:
        return GetFleetResponse(fleet=listings.fleet(await self._gateway.fleet()))

    async def WatchFleet(
        self, request: WatchFleetRequest, context: Context
    ) -> AsyncIterator[WatchFleetResponse]:
        reader = self._fleet_watch.reader()
        context.add_done_callback(lambda _: reader.close())  # type: ignore[arg-type]
        while (state := await reader.read()) is not None:
            yield WatchFleetResponse(fleet=state)

    async def GetUsage(self, request: GetUsageRequest, context: Context) -> GetUsageResponse:
        question = usage.question(request, caller(), now=dt.datetime.now(dt.UTC))
        return usage.response(await self._accounts.used(question))

    async def PurgeCache(self, request: PurgeCacheRequest, context: Context) -> PurgeCacheResponse:
        # Done again it only forgets more, so a `request_id` need not be remembered.
        await self._acts.purge(request.model)
        await self._gateway.purge_cache(caller().organization_id, request.model)
        return PurgeCacheResponse()

    async def _opened(
        self, ask: asks.Chat | asks.Generate, request: ChatRequest | GenerateRequest, context: Context
    ) -> Stream:
        bounds = self._bounds()
        terms = requests.terms(
            caller().organization_id,
            request.priority,
            bounds,
            queue_timeout=request.queue_timeout,
            remaining_s=context.time_remaining(),
        )
        stream = await self._gateway.open(
            ask, principal(), terms, bounds, wishes=requests.wishes(request, self._linger_s)
        )
        # Runs however the call ends: finished, refused, cancelled while waiting or during a write.
        context.add_done_callback(lambda _: stream.close())  # type: ignore[arg-type]
        if stream.flagged:
            await context.send_initial_metadata((FLAG_HEADER,))
        return stream

    async def _description(self, model: Model) -> Description:
        return (await self._gateway.describe(model.card.name, ALL))[1]

    def _allowed(self) -> Allowed:
        return self._gateway.allowed(caller().organization_id, self._bounds())

    def _bounds(self) -> Bounds:
        return bounds_of_caller(self._policies)
