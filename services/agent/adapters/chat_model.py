"""A LangChain chat model whose model is behind InferenceService.Chat.

Every way of asking streams, and whoever stops listening cancels the call. Messages are converted here
and not by langchain-ollama: its conversion renames calls, drops the name of the tool that answers, and
turns a string argument that reads like a Python literal into that literal, which is wrong for code.
"""
# ruff: noqa: ANN401 - The signatures are LangChain's.

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import uuid4

import grpc.aio
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import agenerate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from ollamesh.inference.v1 import completion_pb2 as pb
from pydantic import Field, PrivateAttr, SecretStr

from services.agent.adapters.refusals import refusal_of
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
TRUNCATED = "length"
FINISH_REASONS = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: TRUNCATED,
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


class MeshChatModel(BaseChatModel):
    """One run's model. `deadline_s` is of the event loop's clock. Asynchronous only."""

    model: str
    temperature: float | None = None
    seed: int | None = None
    output_token_count_max: int | None = None
    conversation_id: str = ""
    request_ids: str = ""  # Prefix of each call's request_id, which makes gRPC's own retries safe.
    deadline_s: float
    token: SecretStr
    stub: Any = Field(repr=False, exclude=True)

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
        """Offer `tools`. The API has no choice among them: to force one, offer only that one."""
        if tool_choice not in {None, "auto"}:
            raise ValueError("a choice of tools cannot be made")
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("this model is asynchronous only")

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
        request = self._request(messages, stop or [], kwargs.get("tools", []))
        remaining_s = self.deadline_s - asyncio.get_running_loop().time()
        timeout_s = max(0.0, remaining_s) + TIMEOUT_MARGIN_S
        metadata = bearer(self.token.get_secret_value())
        try:
            # Left early, because nobody listens any more, the generation ends.
            with held(self.stub.Chat(request, timeout=timeout_s, metadata=metadata)) as call:
                async for response in call:
                    if (chunk := _chunk(response.event, self.model)) is None:
                        continue
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        except grpc.aio.AioRpcError as error:
            raise ModelFailed(f"the model did not answer: {refusal_of(error, domain=DOMAIN)}") from error

    def _request(
        self, messages: Sequence[BaseMessage], stop: Sequence[str], tools: Sequence[dict[str, Any]]
    ) -> pb.ChatRequest:
        self._asked_count += 1
        return pb.ChatRequest(
            request_id=f"{self.request_ids}:{self._asked_count}" if self.request_ids else "",
            model=self.model,
            messages=map(_message_to_proto, messages),
            tools=map(_tool_to_proto, tools),
            options=pb.Options(
                temperature=self.temperature,
                seed=self.seed,
                output_token_count_max=self.output_token_count_max,
                stop=stop,
            ),
            conversation_id=self.conversation_id,
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


def _chunk(event: pb.CompletionEvent, model: str) -> ChatGenerationChunk | None:
    """What LangChain makes of an event; None for those that say nothing to it."""
    match event.WhichOneof("event"):
        case "delta":
            thinking = event.delta.thinking
            message = AIMessageChunk(
                content=event.delta.text,
                additional_kwargs={"reasoning_content": thinking} if thinking else {},
                tool_calls=[
                    # A fresh id: what models give is often empty, or the same in every answer.
                    tool_call(
                        name=_name(call.name), args=_arguments(call.arguments_json), id=f"call_{uuid4().hex}"
                    )
                    for call in event.delta.tool_calls
                ],
            )
        case "finished":
            usage = event.finished.usage
            message = AIMessageChunk(
                content="",
                chunk_position="last",
                usage_metadata=UsageMetadata(
                    input_tokens=usage.prompt_token_count,
                    output_tokens=usage.output_token_count,
                    total_tokens=usage.prompt_token_count + usage.output_token_count,
                ),
                response_metadata={
                    "model_name": model,
                    "model_provider": PROVIDER,
                    "finish_reason": FINISH_REASONS.get(event.finished.reason, "stop"),
                },
            )
        case _:
            return None
    return ChatGenerationChunk(message=message)


def _name(text: str) -> str:
    """The tool's name, in the letters in which it can be sent back: models make up names."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:NAME_CHARS_MAX] or "unnamed"


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call. What is no JSON object is kept to be shown; the tool will refuse it."""
    try:
        arguments = json.loads(text or "{}", parse_constant=_refuse)
    except ValueError:
        return {"unreadable": text}
    return arguments if isinstance(arguments, dict) else {"unreadable": text}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
