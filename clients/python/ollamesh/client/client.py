"""The client: what a mesh can do, one method each."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
import grpc.aio
from ollamesh.auth.v1.auth_service_pb2 import RevokeApiKeyRequest
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.client import batches, chats, executions, keys, library, runs
from ollamesh.client.agent import Agent
from ollamesh.client.answers import Answers
from ollamesh.client.calls import Calls
from ollamesh.client.channel import open_channel
from ollamesh.client.credentials import AccessToken, Credentials, Role, Session
from ollamesh.client.fleet import Fleet, Model, fleet_of, model_of
from ollamesh.client.resuming import resumed
from ollamesh.client.sandbox import Sandbox
from ollamesh.client.tokens import Tokens
from ollamesh.inference.v1.batch_pb2 import (
    CancelBatchRequest,
    GetBatchRequest,
    ListBatchesRequest,
    StreamBatchResultsRequest,
    StreamBatchResultsResponse,
)
from ollamesh.inference.v1.fleet_pb2 import GetFleetRequest, WatchFleetRequest
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from ollamesh.inference.v1.model_pb2 import (
    CopyModelRequest,
    DeleteModelRequest,
    ListModelsRequest,
    LoadModelRequest,
    PullModelRequest,
    UnloadModelRequest,
)

Request = TypeVar("Request")
Response = TypeVar("Response")
Stub = TypeVar("Stub")

DEADLINE_S = 30.0
STREAM_DEADLINE_S = 300.0  # As long as a run may take by default.
MODEL_DEADLINE_S = 6 * 3600.0  # A large model on a slow line.
UPLOAD_DEADLINE_S = 600.0


class Client:
    """A caller of the mesh at `target`, an address such as `http://127.0.0.1:8080`.

    Use it as `async with`, inside the event loop that it shall live in. Every call logs in when it must,
    has a deadline (`deadline_s` or `stream_deadline_s` unless the call says otherwise), and raises
    CallError when it fails. Leaving a stream early cancels it; where the moment matters, hold the stream
    in `contextlib.aclosing`.
    """

    def __init__(
        self,
        target: str,
        credentials: Credentials,
        *,
        deadline_s: float = DEADLINE_S,
        stream_deadline_s: float = STREAM_DEADLINE_S,
        resume: bool = True,
        ca: Path | None = None,
    ) -> None:
        """`resume`: chats go on when a connection or a gateway was lost. `ca`: who signs the mesh's certificate."""
        asyncio.get_running_loop()  # Outside of one, gRPC would pick another than the caller's.
        self._deadline_s, self._stream_deadline_s = deadline_s, stream_deadline_s
        self._channel = open_channel(target, ca=ca)
        self._tokens = Tokens(credentials, self._channel)
        self._calls = Calls(self._tokens)
        self._auth = AuthServiceStub(self._channel)
        self._inference = InferenceServiceStub(self._channel)
        limits_s = {"deadline_s": deadline_s, "stream_deadline_s": stream_deadline_s}
        self.agent = Agent(self._calls, self._channel, **limits_s)
        self.sandbox = Sandbox(self._calls, self._channel, **limits_s)
        self._resume = resume
        self._answers = Answers(self._calls, self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is running and hang up."""
        await self._answers.close()
        await self._tokens.close()
        await self._channel.close()

    async def access_token(self) -> AccessToken:
        """Return a token that is valid now, for calls that are not made through this client."""
        return await self._tokens.token()

    async def session(self) -> Session | None:
        """Return this login, for a SavedSession to go on with in place of this one; None if it cannot be renewed."""
        return await self._tokens.session()

    # ---- Models ------------------------------------------------------------------------------------

    async def chat(
        self,
        model: str,
        messages: str | Sequence[chats.Message],
        *,
        options: chats.Options | None = None,
        deadline_s: float | None = None,
        resume: bool | None = None,
    ) -> AsyncGenerator[chats.Event, None]:
        """Stream a model's next message. A plain string is one message of the user's.

        `resume` says otherwise than the client whether a lost stream goes on, within the deadline.
        """
        asked = [chats.Message("user", messages)] if isinstance(messages, str) else messages
        request = chats.request_of(model, asked, options or chats.Options())
        request.request_id = str(uuid.uuid4())
        limit_s = self._stream_deadline_s if deadline_s is None else deadline_s
        whole = self._resume if resume is None else resume
        events = (self._answers.chat if whole else self._answers.chat_once)(request, deadline_s=limit_s)
        async with aclosing(events):
            async for told in events:
                if (event := chats.event_of(told)) is not None:
                    yield event

    async def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """Turn texts into vectors of length 1, in their order."""
        response = await self.call(self._inference.Embed, EmbedRequest(model=model, input=texts))
        return [list(embedding.values) for embedding in response.embeddings]

    async def models(self) -> list[Model]:
        """List the models that the caller may use, by name."""
        models: list[Model] = []
        request = ListModelsRequest()
        while True:
            response = await self.call(self._inference.ListModels, request)
            models += map(model_of, response.models)
            if not response.next_page_token:
                return models
            request = ListModelsRequest(page_token=response.next_page_token)

    async def pull_model(
        self, model: str, instances: Sequence[str] = (), *, deadline_s: float = MODEL_DEADLINE_S
    ) -> AsyncGenerator[library.Event, None]:
        """Have instances fetch a model, all that are ready unless some are named, and stream how far they are.

        Leaving the stream stops the download if nobody else watches it; asked for again, it goes on from there.
        """
        request = PullModelRequest(model=model, instances=instances)
        async with aclosing(
            self.stream(self._inference.PullModel, request, deadline_s=deadline_s)
        ) as responses:
            async for response in responses:
                if (event := library.event_of(response)) is not None:
                    yield event

    async def delete_model(self, model: str) -> None:
        """Remove a model from every instance, once what runs with it has ended."""
        request = DeleteModelRequest(request_id=str(uuid.uuid4()), model=model)
        await self.call(self._inference.DeleteModel, request, deadline_s=self._stream_deadline_s)

    async def copy_model(self, source: str, destination: str) -> Model:
        """Give a model a second name."""
        request = CopyModelRequest(request_id=str(uuid.uuid4()), source=source, destination=destination)
        return model_of((await self.call(self._inference.CopyModel, request)).model)

    async def load_model(self, model: str, instance: str = "", *, pin: bool = False) -> str:
        """Have a model loaded before it is needed, and kept if `pin`; return where."""
        request = LoadModelRequest(request_id=str(uuid.uuid4()), model=model, instance=instance, pin=pin)
        deadline_s = self._stream_deadline_s
        return (await self.call(self._inference.LoadModel, request, deadline_s=deadline_s)).instance

    async def unload_model(self, model: str, instance: str = "") -> None:
        """Free a model's memory, everywhere or on one instance, once what runs with it has ended; and unpin it."""
        request = UnloadModelRequest(request_id=str(uuid.uuid4()), model=model, instance=instance)
        await self.call(self._inference.UnloadModel, request, deadline_s=self._stream_deadline_s)

    async def fleet(self) -> Fleet:
        """Show the instances, what they hold, and who waits."""
        return fleet_of((await self.call(self._inference.GetFleet, GetFleetRequest())).fleet)

    async def watch_fleet(self, *, deadline_s: float | None = None) -> AsyncGenerator[Fleet, None]:
        """Stream the fleet's state: whole, at first and after each change. It ends when the service does."""
        stream = self.stream(self._inference.WatchFleet, WatchFleetRequest(), deadline_s=deadline_s)
        async with aclosing(stream) as responses:
            async for response in responses:
                yield fleet_of(response.fleet)

    # ---- Batches -----------------------------------------------------------------------------------

    async def create_batch(
        self,
        items: Iterable[batches.BatchItem],
        *,
        request_id: str | None = None,
        display_name: str = "",
        window_s: float | None = None,
        retention_s: float | None = None,
        deadline_s: float = UPLOAD_DEADLINE_S,
    ) -> batches.Batch:
        """Have many requests answered in idle slots. All of them are stored when this returns.

        With a `request_id` of one's own, the same call again returns the same batch.
        """
        parts = batches.parts_of(
            items,
            request_id=str(uuid.uuid4()) if request_id is None else request_id,
            display_name=display_name,
            window_s=window_s,
            retention_s=retention_s,
        )
        response = await self._calls.upload(self._inference.CreateBatch, parts, deadline_s=deadline_s)
        return batches.batch_of(response.batch)

    async def batch(self, batch_id: str) -> batches.Batch:
        """Tell how far a batch is."""
        request = GetBatchRequest(batch_id=batch_id)
        return batches.batch_of((await self.call(self._inference.GetBatch, request)).batch)

    async def list_batches(self) -> AsyncGenerator[batches.Batch, None]:
        """List the caller's batches, newest first."""
        request = ListBatchesRequest()
        while True:
            response = await self.call(self._inference.ListBatches, request)
            for batch in response.batches:
                yield batches.batch_of(batch)
            if not response.next_page_token:
                return
            request = ListBatchesRequest(page_token=response.next_page_token)

    async def cancel_batch(self, batch_id: str) -> batches.Batch:
        """End a batch; what is done stays done."""
        request = CancelBatchRequest(batch_id=batch_id)
        return batches.batch_of((await self.call(self._inference.CancelBatch, request)).batch)

    async def batch_results(
        self, batch_id: str, *, after_sequence: int = 0, deadline_s: float | None = None
    ) -> AsyncGenerator[batches.Result, None]:
        """Stream results as they appear, each once, to the end of the batch; lost connections are made anew."""

        def opened(after: int, left_s: float) -> AsyncGenerator[StreamBatchResultsResponse, None]:
            request = StreamBatchResultsRequest(batch_id=batch_id, after_sequence=after)
            return self.stream(self._inference.StreamBatchResults, request, deadline_s=left_s)

        responses = resumed(
            opened,
            lambda response: response.sequence,
            after_sequence=after_sequence,
            deadline_s=self._stream_deadline_s if deadline_s is None else deadline_s,
        )
        async with aclosing(responses):
            async for response in responses:
                yield batches.result_of(response)

    # ---- Agents ------------------------------------------------------------------------------------

    async def create_thread(self, display_name: str = "") -> str:
        """Start a conversation and return its id. What else there is of agents, `self.agent` has."""
        return await self.agent.create_thread(display_name)

    async def start_run(self, thread_id: str, task: str, config: runs.Config | None = None) -> runs.Run:
        """Have an agent work on a thread. The run is stored and goes on, whoever watches."""
        return await self.agent.start(thread_id, task, config)

    async def run(
        self, task: str, config: runs.Config | None = None, *, deadline_s: float | None = None
    ) -> AsyncGenerator[runs.Event, None]:
        """Start a run on a thread of its own and watch it to its end."""
        started = await self.start_run(await self.create_thread(), task, config)
        async with aclosing(self.watch(started.run_id, deadline_s=deadline_s)) as events:
            async for event in events:
                yield event

    def watch(
        self, run_id: str, *, after_sequence: int = 0, deadline_s: float | None = None
    ) -> AsyncGenerator[runs.Event, None]:
        """Stream a run's events after `after_sequence`, live or finished, each of them once.

        A lost connection is made anew, and the stream goes on from the event where it was. Leaving it does
        nothing to the run.
        """
        return self.agent.watch(run_id, after_sequence=after_sequence, deadline_s=deadline_s)

    # ---- The sandbox -------------------------------------------------------------------------------

    def execute(
        self,
        code: str,
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        deadline_s: float | None = None,
        **options: Unpack[executions.Options],
    ) -> AsyncGenerator[executions.Event, None]:
        """Run a program in a fresh jail and stream what it does. Leaving the stream kills it.

        What else there is of the sandbox, `self.sandbox` has.
        """
        return self.sandbox.execute(code, stdin=stdin, deadline_s=deadline_s, **options)

    # ---- API keys ----------------------------------------------------------------------------------

    async def create_api_key(
        self,
        display_name: str,
        *,
        scopes: Sequence[str] = (),
        lifetime_s: float | None = None,
        project_id: str = "",
        role: Role | None = None,
        request_id: str = "",
    ) -> tuple[keys.Key, str]:
        """Make a key; return what is known of it, and the key itself, which is shown this once."""
        request = keys.request_of(
            display_name,
            request_id=request_id or str(uuid.uuid4()),
            scopes=scopes,
            lifetime_s=lifetime_s,
            project_id=project_id,
            role=role,
        )
        response = await self.call(self._auth.CreateApiKey, request)
        return keys.key_of(response.api_key), response.secret

    def list_api_keys(self) -> AsyncGenerator[keys.Key, None]:
        """List the caller's keys or, for an admin, the organisation's; newest first."""
        return keys.listed(partial(self.call, self._auth.ListApiKeys))

    async def revoke_api_key(self, api_key_id: str) -> keys.Key:
        """Make a key useless, everywhere within a second."""
        response = await self.call(self._auth.RevokeApiKey, RevokeApiKeyRequest(api_key_id=api_key_id))
        return keys.key_of(response.api_key)

    # ---- Everything else ---------------------------------------------------------------------------

    def stub(self, make: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """Make a generated stub on this client's connection, for `call` and `stream`."""
        return make(self._channel)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        deadline_s: float | None = None,
    ) -> Response:
        """Call any unary method of any stub, as this class makes its own calls."""
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        return await self._calls.unary(method, request, deadline_s=limit_s)

    def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[Response, None]:
        """Call any server-streaming method of any stub, as this class makes its own calls."""
        limit_s = self._stream_deadline_s if deadline_s is None else deadline_s
        return self._calls.stream(method, request, deadline_s=limit_s)
