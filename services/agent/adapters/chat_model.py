"""A LangChain chat model whose model is behind InferenceService.Chat.

Every way of asking streams, and whoever stops listening cancels the call. Messages are converted here
and not by langchain-ollama: its conversion renames calls, drops the name of the tool that answers, and
turns a string argument that reads like a Python literal into that literal, which is wrong for code.
What is heard is an answer as it may be told: see core/writing.py. Gateways tell calls whole, each once
it is; so do we.
"""
# ruff: noqa: ANN401 - The signatures are LangChain's.

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import grpc.aio
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from ollamesh.inference.v1 import completion_pb2 as pb
from pydantic import BaseModel, Field, PrivateAttr, SecretStr

from services.agent.adapters.refusals import refusal_of
from services.agent.adapters.structured_model import structured
from services.agent.core.writing import PLAIN, Piece, Told, Writing
from services.agent.errors import ModelFailed
from services.common.grpc.client import bearer, held

DOMAIN = "inference.ollamesh"
SERVICE = "ollamesh.inference.v1.InferenceService"
PROVIDER = "ollamesh"
NAME_CHARS_MAX = 64
TIMEOUT_MARGIN_S = 1.0  # So that the run's own end comes first, and says why.
ROLES = {
    "system": pb.ROLE_SYSTEM,
    "human": pb.ROLE_USER,
    "ai": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}
# What the gateway says of an answer that was begun under the same request_id and is not made any more.
GONE = frozenset({"STREAM_CANCELLED", "STREAM_EXPIRED", "STREAM_UNREACHABLE"})
TRUNCATED = "length"
FINISH_REASONS = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: TRUNCATED,
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


class MeshChatModel(BaseChatModel):
    """One run's model. `deadline_s` is of the event loop's clock, which is the monotonic one.

    Asked for with `format`, its answer keeps a JSON Schema, or, with "json", is any JSON; with `wording`, it is told
    as that says.
    """

    model: str
    temperature: float | None = None
    seed: int | None = None
    output_token_count_max: int | None = None
    context_token_count: int | None = (
        None  # What the conversation may need: refused where the model has less.
    )
    is_batch: bool = False  # Asks when there is nothing more urgent.
    conversation_id: str = ""
    request_ids: str = ""  # Prefix of each call's request_id, which makes gRPC's own retries safe.
    deadline_s: float
    token: SecretStr
    stub: Any = Field(repr=False, exclude=True)
    blocking_stub: Any = Field(default=None, repr=False, exclude=True)  # For callers without an event loop.

    _asked_count: int = PrivateAttr(default=0)

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "temperature": self.temperature, "seed": self.seed}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer `tools`, or of them the one that is chosen by name. None can be forced: "any" is as good as "auto"."""
        offered = [convert_to_openai_tool(tool) for tool in tools]
        if tool_choice not in {None, "auto", "any", "required"}:
            offered = [tool for tool in offered if tool["function"]["name"] == tool_choice]
            if not offered:
                raise ValueError(f"there is no tool {tool_choice} to choose")
        return self.bind(tools=offered, **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Have answers keep a schema by the runtime's own means, whatever `method` is asked for but "json_mode"."""
        is_any_json = kwargs.get("method") == "json_mode"
        return structured(self, schema, is_any_json=is_any_json, include_raw=include_raw)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if self.blocking_stub is None:
            raise NotImplementedError("this model is asynchronous only")
        request, hearing = self._request(messages, stop or [], kwargs), self._hearing(kwargs)
        try:
            with held(self.blocking_stub.Chat(request, **self._options(time.monotonic()))) as call:
                for response in call:
                    for chunk in hearing.chunks(response.event):
                        if run_manager:
                            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
        except grpc.RpcError as error:
            raise _failed(error) from error

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request, hearing = self._request(messages, stop or [], kwargs), self._hearing(kwargs)
        try:
            # Left early, because nobody listens any more, the generation ends.
            with held(self.stub.Chat(request, **self._options(asyncio.get_running_loop().time()))) as call:
                async for response in call:
                    for chunk in hearing.chunks(response.event):
                        if run_manager:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error

    def _options(self, now_s: float) -> dict[str, Any]:
        timeout_s = max(0.0, self.deadline_s - now_s) + TIMEOUT_MARGIN_S
        return {"timeout": timeout_s, "metadata": bearer(self.token.get_secret_value())}

    def _hearing(self, asked: Mapping[str, Any]) -> "_Hearing":
        offered = {tool["function"]["name"]: tool["function"] for tool in asked.get("tools", [])}
        schemas = {name: function.get("parameters", {}) for name, function in offered.items()}
        return _Hearing(Writing(schemas, asked.get("wording", PLAIN)), self.model)

    def _request(
        self, messages: Sequence[BaseMessage], stop: Sequence[str], asked: Mapping[str, Any]
    ) -> pb.ChatRequest:
        self._asked_count += 1
        return pb.ChatRequest(
            request_id=f"{self.request_ids}:{self._asked_count}" if self.request_ids else "",
            model=self.model,
            messages=map(_message_to_proto, messages),
            tools=map(_tool_to_proto, asked.get("tools", [])),
            format=_format(asked.get("format")),
            options=pb.Options(
                temperature=self.temperature,
                seed=self.seed,
                output_token_count_max=self.output_token_count_max,
                context_token_count=self.context_token_count,
                stop=stop,
            ),
            priority=pb.PRIORITY_BATCH if self.is_batch else pb.PRIORITY_UNSPECIFIED,
            conversation_id=self.conversation_id,
        )


def _failed(error: Any) -> ModelFailed:
    refusal = refusal_of(error, domain=DOMAIN)
    is_refused = error.code() is grpc.StatusCode.UNAUTHENTICATED
    return ModelFailed(
        f"the model did not answer: {refusal}", is_refused=is_refused, is_gone=refusal.reason in GONE
    )


def _message_to_proto(message: BaseMessage) -> pb.Message:
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    thinking = message.additional_kwargs.get("reasoning_content", "")
    return pb.Message(
        role=ROLES[message.type],
        content=message.text,
        thinking=thinking if isinstance(message, AIMessage) else "",
        tool_calls=[
            pb.ToolCall(id=call["id"] or "", name=call["name"], arguments_json=json.dumps(call["args"]))
            for call in calls
        ],
        tool_name=(message.name or "") if isinstance(message, ToolMessage) else "",
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else "",
    )


def _tool_to_proto(tool: dict[str, Any]) -> pb.Tool:
    function = tool["function"]
    return pb.Tool(
        name=function["name"],
        description=function.get("description", ""),
        parameters_json_schema=json.dumps(function["parameters"]) if "parameters" in function else "",
    )


def _format(asked: str | Mapping[str, Any] | None) -> pb.OutputFormat | None:
    if asked is None:
        return None
    return pb.OutputFormat(json=True) if asked == "json" else pb.OutputFormat(json_schema=json.dumps(asked))


class _Hearing:
    """Makes LangChain's pieces of the events of one answer."""

    def __init__(self, writing: Writing, model: str) -> None:
        self._writing, self._model = writing, model
        self._call_count = 0

    def chunks(self, event: pb.CompletionEvent) -> Iterator[ChatGenerationChunk]:
        match event.WhichOneof("event"):
            case "delta":
                delta = event.delta
                calls = [(call.name, call.arguments_json) for call in delta.tool_calls]
                piece = Piece(text=delta.text, thinking=delta.thinking, calls=calls)
                yield from self._chunks(self._writing.hear(piece))
            case "finished":
                reason = FINISH_REASONS.get(event.finished.reason, "stop")
                rest = self._writing.end(truncated=reason == TRUNCATED)
                yield from self._chunks(rest)
                if self._writing.is_calling and reason == "stop":
                    reason = FINISH_REASONS[pb.FINISH_REASON_TOOL_CALLS]
                yield _last(event.finished.usage, self._model, reason)
            case _:
                pass  # It says nothing to LangChain.

    def _chunks(self, told: Told) -> Iterator[ChatGenerationChunk]:
        if told == Told():
            return
        calls = [
            # A fresh id: what models give is often empty, or the same in every answer.
            tool_call_chunk(
                name=_name(call.name), args=json.dumps(call.arguments), id=f"call_{uuid4().hex}", index=index
            )
            for index, call in enumerate(told.calls, self._call_count)
        ]
        self._call_count += len(calls)
        thinking = {"reasoning_content": told.thinking} if told.thinking else {}
        yield ChatGenerationChunk(
            message=AIMessageChunk(content=told.text, additional_kwargs=thinking, tool_call_chunks=calls)
        )


def _last(usage: pb.TokenUsage, model: str, reason: str) -> ChatGenerationChunk:
    message = AIMessageChunk(
        content="",
        chunk_position="last",
        usage_metadata=UsageMetadata(
            input_tokens=usage.prompt_token_count,
            output_tokens=usage.output_token_count,
            total_tokens=usage.prompt_token_count + usage.output_token_count,
        ),
        response_metadata={"model_name": model, "model_provider": PROVIDER, "finish_reason": reason},
    )
    return ChatGenerationChunk(message=message)


def _name(text: str) -> str:
    """The tool's name, in the letters in which it can be sent back: models make up names."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:NAME_CHARS_MAX] or "unnamed"
