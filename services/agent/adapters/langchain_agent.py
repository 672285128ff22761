"""The loop of model and tools: LangChain's `create_agent`, with one middleware that is ours.

LangChain asks the model, reads its calls and goes round; what may be asked and called, with whose
rights, and what is told of it is decided here, outside model and library. Tools are not LangChain's
either: they are offered as schemas, and their calls are answered before its own tool node looks. So
one compiled graph serves every run; what differs is in the run's context. Importing LangChain takes
seconds and 80 MB: it is paid once, when the process starts, and in no other service.
"""
# ruff: noqa: ANN401, ARG002 - The signatures are LangChain's.

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphInterrupt
from langgraph.types import Command
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from pydantic import SecretStr

from services.agent.adapters.chat_model import TRUNCATED, MeshChatModel
from services.agent.adapters.json_schemas import problem_with
from services.agent.adapters.middleware.answers import Answers
from services.agent.adapters.middleware.asking import Asking
from services.agent.adapters.middleware.context import RunContext
from services.agent.adapters.pii_detectors import DETECTORS
from services.agent.agents import Assignment, Recorder
from services.agent.calling import NO_RULES, Calling
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.events import CallWritten, Delta
from services.agent.core.ids import RunId
from services.agent.core.pii import Redactor, cleaned_message
from services.agent.core.policy import Rules
from services.agent.core.record import Said
from services.agent.core.run import Answer
from services.agent.core.structured import bare
from services.agent.core.text_filter import filtered
from services.agent.errors import ModelFailed, Waits
from services.agent.ports import Tool, ToolSpec

# Where a run's checkpoints are kept, each with its number of steps; of a replica that has lost the run they are refused.
Saver = Callable[[Assignment, Callable[[], int]], BaseCheckpointSaver[Any]]


class LangChainAgent:
    """Implements agents.Agent.

    What was told of a run is the truth of what was said and done; LangGraph's checkpoint, which may lag behind it and
    is never ahead, is where the graph goes on. What the graph does over again it finds told, and nothing is asked or
    called twice.
    """

    def __init__(
        self,
        stub: InferenceServiceStub,
        tools: Mapping[str, Tool],
        saver: Saver,
        asking: Asking,
        *,
        rules: Rules = NO_RULES,
    ) -> None:
        self._saver = saver
        # Never asked: every run brings its own.
        nobody = MeshChatModel(model="", token=SecretStr(""), deadline_s=0.0, stub=stub)
        loop = _Loop(stub, Calling(tools, problem_with, DETECTORS, rules))
        self._graph = create_agent(
            nobody, tools=[], middleware=[Answers(), loop, asking], context_schema=RunContext
        )

    async def work(self, assignment: Assignment, recorder: Recorder) -> str:
        saver = self._saver(assignment, lambda: recorder.step_count)
        config = RunnableConfig(
            configurable={"thread_id": str(assignment.run_id)}, callbacks=[_Listener(recorder)]
        )
        context = RunContext(assignment, recorder)
        is_going_on = assignment.is_resumed and await saver.aget_tuple(config) is not None
        state = await self._graph.copy({"checkpointer": saver}).ainvoke(
            None
            if is_going_on
            else InputAgentState(messages=[_to_langchain(message) for message in _readable(assignment)]),
            config=config,
            context=context,
            durability="sync",
        )
        if context.waiting:
            raise Waits
        answer: str = state["messages"][-1].text
        return bare(answer) if assignment.config.response_json_schema else answer


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
        for piece in getattr(chunk.message, "tool_call_chunks", ()):
            written = CallWritten(piece["index"] or 0, piece["name"] or "", piece["args"] or "")
            await self._recorder.hear_call(written)


class _Loop(AgentMiddleware[AgentState[Any], RunContext]):
    def __init__(self, stub: InferenceServiceStub, calling: Calling) -> None:
        super().__init__()
        self._stub, self._calling = stub, calling

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        assignment, recorder = request.runtime.context.assignment, request.runtime.context.recorder
        config = assignment.config
        step = _steps_made(request.state["messages"], assignment.run_id) + 1
        if (said := recorder.said(step)) is not None:
            return ModelResponse(result=[_said(said, assignment.run_id, step)])
        # A model that is too small to choose is offered one tool in its first step.
        names = (config.first_tool,) if step == 1 and config.first_tool else config.tools
        asking = request.override(
            tools=[_schema(self._calling.tools[name].spec) for name in names],
            system_message=SystemMessage(config.system_prompt) if config.system_prompt else None,
        )
        response = await self._response(asking, handler, step)
        message = response.result[0]
        assert isinstance(message, AIMessage)
        answer = _answer(message, step)
        await recorder.answer(answer)
        thinking = message.additional_kwargs.get("reasoning_content", "")
        told = Said(text=message.text, thinking=thinking, calls=answer.calls)
        return ModelResponse(result=[_said(told, assignment.run_id, step)])

    async def _response(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
        step: int,
    ) -> ModelResponse[Any]:
        """Ask under the step's name, which the gateway replays. What it was telling to a replica that was lost it may
        have ended, for nobody listened any more: then the step is asked under a name that nobody has used.
        """
        assignment = request.runtime.context.assignment
        name = f"{assignment.run_id}:{step}"
        try:
            return await self._asked(request, handler, name, step)
        except ModelFailed as failure:
            if not (failure.is_gone and assignment.is_resumed):
                raise
        return await self._asked(request, handler, f"{name}:{assignment.lease.fence}", step)

    async def _asked(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
        name: str,
        step: int,
    ) -> ModelResponse[Any]:
        assignment, recorder = request.runtime.context.assignment, request.runtime.context.recorder
        asked = recorder.ask()
        assert asked == step, "what is told and what the graph does are one tale"
        with recorder.asking():
            return await handler(request.override(model=await self._model(assignment, name)))

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage:
        context: object = request.runtime.context
        assert isinstance(context, RunContext)
        wanted = request.tool_call
        call = ToolCall(
            call_id=wanted["id"] or "", name=wanted["name"], arguments_json=json.dumps(wanted["args"])
        )
        try:
            result = await self._calling.make(call, context.assignment, context.recorder, context.memo)
        except Waits:
            context.waiting.append(call.call_id)
            raise GraphInterrupt from None  # Other calls of the step finish; then the graph stops.
        return ToolMessage(
            content=result.content,
            tool_call_id=call.call_id,
            name=call.name,
            status="error" if result.failed else "success",
        )

    async def _model(self, assignment: Assignment, name: str) -> MeshChatModel:
        config = assignment.config
        return MeshChatModel(
            model=config.model,
            temperature=config.temperature,
            seed=config.seed,
            output_token_count_max=config.limits.output_token_count_per_call,
            is_batch=assignment.is_batch,
            conversation_id=str(assignment.thread_id),
            request_ids=name,
            deadline_s=assignment.deadline_s,
            token=SecretStr(await assignment.token()),
            stub=self._stub,
        )


def _steps_made(messages: Sequence[AnyMessage], run_id: RunId) -> int:
    """How many steps of the run the graph has made: its messages say of which they are."""
    prefix = f"{run_id}:"
    ids = [message.id or "" for message in messages if isinstance(message, AIMessage)]
    return max((int(name.removeprefix(prefix)) for name in ids if name.startswith(prefix)), default=0)


def _said(said: Said, run_id: RunId, step: int) -> AIMessage:
    """The same message, whether the model answers now or was heard before."""
    return AIMessage(
        id=f"{run_id}:{step}",
        content=said.text,
        additional_kwargs={"reasoning_content": said.thinking} if said.thinking else {},
        tool_calls=[
            tool_call(name=call.name, args=json.loads(call.arguments_json), id=call.call_id)
            for call in said.calls
        ],
    )


def _schema(spec: ToolSpec) -> dict[str, Any]:
    """As OpenAI's API writes it, which is what LangChain passes on."""
    parameters = json.loads(spec.parameters_json_schema)
    function = {"name": spec.name, "description": spec.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _answer(message: AIMessage, step: int) -> Answer:
    usage = message.usage_metadata
    return Answer(
        calls=tuple(
            # What models and their runtimes call calls is often empty, or the same in every answer.
            ToolCall(
                call_id=f"call_{step}_{index}", name=call["name"], arguments_json=json.dumps(call["args"])
            )
            for index, call in enumerate(message.tool_calls)
        ),
        prompt_token_count=usage["input_tokens"] if usage else 0,
        output_token_count=usage["output_tokens"] if usage else 0,
        truncated=message.response_metadata.get("finish_reason") == TRUNCATED,
    )


def _readable(assignment: Assignment) -> Sequence[Message]:
    """What the model may read of the thread. Raises PiiBlocked."""
    rules = assignment.config.pii_rules
    if not rules:
        return assignment.messages

    def cleaned(text: str) -> str:
        return filtered(text, Redactor(rules, DETECTORS))

    return [cleaned_message(message, cleaned) for message in assignment.messages]


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
