"""The loop of model and tools: LangChain's `create_agent`, with one middleware that is ours.

LangChain asks the model, reads its calls and goes round; what may be asked and called, with whose
rights, and what is told of it is decided here, outside model and library. Tools are not LangChain's
either: they are offered as schemas, and their calls are answered before its own tool node looks. So
one compiled graph serves every run; what differs is in the run's context. Importing LangChain takes
seconds and 80 MB: it is paid once, when the process starts, and in no other service.
"""
# ruff: noqa: ANN401, ARG002 - The signatures are LangChain's.

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    InputAgentState,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk
from langgraph.types import Command
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from pydantic import SecretStr

from services.agent.adapters.chat_model import TRUNCATED, MeshChatModel
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.events import Channel, Delta
from services.agent.core.run import Answer
from services.agent.ports import Assignment, CallContext, Recorder, Tool, ToolResult, ToolSpec


@dataclass(frozen=True, slots=True)
class _Context:
    """What differs between runs."""

    assignment: Assignment
    recorder: Recorder
    model: MeshChatModel


class LangChainAgent:
    """Implements ports.Agent."""

    def __init__(self, stub: InferenceServiceStub, tools: Mapping[str, Tool]) -> None:
        self._stub = stub
        # Never asked: every run brings its own.
        nobody = MeshChatModel(model="", token=SecretStr(""), deadline_s=0.0, stub=stub)
        self._graph = create_agent(nobody, tools=[], middleware=[_Loop(tools)], context_schema=_Context)

    async def work(self, assignment: Assignment, recorder: Recorder) -> str:
        config = assignment.config
        model = MeshChatModel(
            model=config.model,
            temperature=config.temperature,
            seed=config.seed,
            output_token_count_max=config.limits.output_token_count_per_call,
            conversation_id=str(assignment.thread_id),
            request_ids=str(assignment.run_id),
            deadline_s=assignment.deadline_s,
            token=SecretStr(assignment.token),
            stub=self._stub,
        )
        state = await self._graph.ainvoke(
            InputAgentState(messages=[_to_langchain(message) for message in assignment.messages]),
            config={"callbacks": [_Listener(recorder)]},
            context=_Context(assignment, recorder, model),
        )
        answer: str = state["messages"][-1].text
        return answer


class _Listener(AsyncCallbackHandler):
    """Hears the model as it writes."""

    run_inline = True  # In order, and without a task for every token.
    raise_error = True

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        **kwargs: Any,
    ) -> None:
        assert isinstance(chunk, ChatGenerationChunk)
        delta = Delta(chunk.text, chunk.message.additional_kwargs.get("reasoning_content", ""))
        if delta != Delta():
            await self._recorder.hear(delta)


class _Loop(AgentMiddleware[AgentState[Any], _Context]):
    def __init__(self, tools: Mapping[str, Tool]) -> None:
        super().__init__()
        self._tools = tools

    async def awrap_model_call(
        self,
        request: ModelRequest[_Context],
        handler: Callable[[ModelRequest[_Context]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        context = request.runtime.context
        config = context.assignment.config
        step = context.recorder.ask()
        # A model that is too small to choose is offered one tool in its first step.
        names = (config.first_tool,) if step == 1 and config.first_tool else config.tools
        response = await handler(
            request.override(
                model=context.model,
                tools=[_schema(self._tools[name].spec) for name in names],
                system_message=SystemMessage(config.system_prompt) if config.system_prompt else None,
            )
        )
        message = response.result[0]
        assert isinstance(message, AIMessage)
        await context.recorder.answer(_answer(message))
        return response

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage:
        context: object = request.runtime.context
        assert isinstance(context, _Context)
        call_id, name = request.tool_call["id"] or "", request.tool_call["name"]
        began_s = asyncio.get_running_loop().time()
        result = await self._call(call_id, name, request.tool_call["args"], context)
        duration_s = asyncio.get_running_loop().time() - began_s
        context.recorder.tool_returned(call_id, result, duration_s=duration_s)
        return ToolMessage(
            content=result.content,
            tool_call_id=call_id,
            name=name,
            status="error" if result.failed else "success",
        )

    async def _call(
        self, call_id: str, name: str, arguments: Mapping[str, object], context: _Context
    ) -> ToolResult:
        assignment = context.assignment
        allowed = assignment.config.tools
        if name not in allowed:
            return ToolResult(content=f"There is no tool {name}. Tools: {', '.join(allowed)}.", failed=True)

        async def write(channel: Channel, text: str) -> None:
            await context.recorder.tool_wrote(call_id, channel, text)

        return await self._tools[name].call(
            arguments,
            CallContext(
                deadline_s=assignment.deadline_s,
                owner=assignment.owner,
                thread_id=assignment.thread_id,
                key=f"{assignment.run_id}:{call_id}",
                write=write,
                token=assignment.token,
            ),
        )


def _schema(spec: ToolSpec) -> dict[str, Any]:
    """As OpenAI's API writes it, which is what LangChain passes on."""
    parameters = json.loads(spec.parameters_json_schema)
    function = {"name": spec.name, "description": spec.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _answer(message: AIMessage) -> Answer:
    usage = message.usage_metadata
    return Answer(
        calls=tuple(
            ToolCall(call_id=call["id"] or "", name=call["name"], arguments_json=json.dumps(call["args"]))
            for call in message.tool_calls
        ),
        prompt_token_count=usage["input_tokens"] if usage else 0,
        output_token_count=usage["output_tokens"] if usage else 0,
        truncated=message.response_metadata.get("finish_reason") == TRUNCATED,
    )


def _to_langchain(message: Message) -> AnyMessage | dict[str, Any]:
    match message.role:
        case Role.USER:
            return HumanMessage(message.content)
        case Role.TOOL:
            return ToolMessage(content=message.content, tool_call_id=message.call_id, name=message.tool_name)
        case Role.ASSISTANT:
            calls = [
                tool_call(name=call.name, args=json.loads(call.arguments_json), id=call.call_id)
                for call in message.calls
            ]
            return AIMessage(content=message.content, tool_calls=calls)
