"""How the model is asked in one step: what it reads of the conversation, in which form it answers, how that is told."""

import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Annotated, Any, NotRequired, TypedDict

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse, PrivateStateAttr
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langgraph.types import Command

from services.agent.adapters.chat_model import MeshChatModel
from services.agent.adapters.middleware.answers import ASKED_AGAIN, format_of, is_asked_again
from services.agent.adapters.middleware.context import RunContext
from services.agent.adapters.pii_detectors import DETECTORS
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.links import LinkStripper
from services.agent.core.pii import PiiRule, Redactor
from services.agent.core.run_config import RunConfig
from services.agent.core.summary import (
    CHARS_PER_TOKEN,
    SO_FAR,
    Summary,
    as_kept,
    count_to_cover,
    places_read,
    question_for,
    token_count,
)
from services.agent.core.text_filter import TextFilter, filtered
from services.agent.core.writing import Wording
from services.agent.summaries import Kept, Summaries
from services.common.errors import StoreFailure

SUMMARY_TOKENS_MAX = 512
BUDGET_SHARE_MIN = 4  # Of the context, so much is the conversation's, however long prompt and tools are.


class _StoredSummary(TypedDict):
    text: str
    count: int


class _State(AgentState[Any]):
    summary: NotRequired[Annotated[_StoredSummary, PrivateStateAttr]]


class Asking(AgentMiddleware[AgentState[Any], RunContext]):
    """Wraps the question itself: it comes here only if the answer is not known already."""

    state_schema = _State

    def __init__(
        self, summaries: Summaries, *, context_token_count: int, link_hosts: Collection[str]
    ) -> None:
        """Links to `link_hosts` stay whatever the model has read."""
        super().__init__()
        self._summaries, self._context_token_count = summaries, context_token_count
        self._link_hosts = link_hosts

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any]:
        context = request.runtime.context
        config = context.assignment.config
        request = request.override(
            model_settings={**request.model_settings, "wording": self._wording(request)}
        )
        # A format keeps models from calling tools: so it is asked for only where none is offered any more.
        if config.response_json_schema and (is_asked_again(request.messages) or not request.tools):
            settings = {**request.model_settings, "format": format_of(config.response_json_schema)}
            request = request.override(tools=[], model_settings=settings)
        summary, used = await self._summary(request)
        response = await handler(request.override(messages=_as_read(request.messages, summary)))
        answer = response.result[-1]
        assert isinstance(answer, AIMessage)
        if used is not None:
            answer = answer.model_copy(update={"usage_metadata": add_usage(answer.usage_metadata, used)})
        stored = _StoredSummary(text=summary.text, count=summary.count)
        return ExtendedModelResponse(
            ModelResponse(result=[*response.result[:-1], answer]),
            Command(update={"summary": stored}) if used is not None else None,
        )

    def _wording(self, request: ModelRequest[RunContext]) -> Wording:
        context = request.runtime.context
        rules, is_tainted = context.assignment.config.pii_rules, context.recorder.is_tainted
        returned = [message for message in request.messages if isinstance(message, ToolMessage)]

        def redactors() -> Sequence[TextFilter]:
            return [Redactor(rules, DETECTORS)] if rules else []

        def filters() -> Sequence[TextFilter]:
            return [*redactors(), *([LinkStripper(self._link_hosts)] if is_tainted else [])]

        return Wording(filters=filters, inner_filters=redactors, read=[message.text for message in returned])

    async def _summary(self, request: ModelRequest[RunContext]) -> tuple[Summary, UsageMetadata | None]:
        """What the older messages are to be read as, and what it took, if it was made just now."""
        context = request.runtime.context
        if context.summary is None:
            stored: Any = request.state.get("summary")
            before = Summary(_cleaned(context.assignment.summary, context.assignment.config.pii_rules))
            context.summary = Summary(stored["text"], stored["count"]) if stored else before
        messages = [_message(message) for message in request.messages]
        budget = self._budget(request, context.assignment.config)
        count = count_to_cover(messages, context.summary, budget=budget)
        if count is None:
            return context.summary, None
        asked = question_for(messages, context.summary, count=count, chars_max=budget * CHARS_PER_TOKEN)
        answer = await _asked(request.model, asked, request.model_settings["wording"])
        context.summary = Summary(as_kept(answer.text), count)
        history = _history_count(request.messages, str(context.assignment.run_id))
        if count <= history:
            kept = Kept(text=context.summary.text, newer_count=history - count)
            with suppress(StoreFailure):  # Then the next run makes its own.
                await self._summaries.keep(context.assignment.run_id, kept)
        return context.summary, answer.usage_metadata or UsageMetadata(
            input_tokens=0, output_tokens=0, total_tokens=0
        )

    def _budget(self, request: ModelRequest[RunContext], config: RunConfig) -> int:
        """How many tokens of conversation the model may read."""
        tools = sum(token_count(json.dumps(tool)) for tool in request.tools if isinstance(tool, dict))
        fixed = tools + token_count(config.system_prompt) + config.limits.output_token_count_per_call
        return max(self._context_token_count // BUDGET_SHARE_MIN, self._context_token_count - fixed)


async def _asked(model: BaseChatModel, question: str, wording: Wording) -> AIMessage:
    """A summary, of which nobody is told."""
    assert isinstance(model, MeshChatModel)
    asked = model.model_copy(
        update={
            "request_ids": f"{model.request_ids}:summary" if model.request_ids else "",
            "output_token_count_max": SUMMARY_TOKENS_MAX,
        }
    )
    answer = await asked.ainvoke([HumanMessage(question)], config={"callbacks": []}, wording=wording)
    assert isinstance(answer, AIMessage)
    return answer


def _cleaned(text: str, rules: Sequence[PiiRule]) -> str:
    """What the model may read of a text. Raises PiiBlocked."""
    return filtered(text, Redactor(rules, DETECTORS)) if rules else text


def _as_read(messages: Sequence[AnyMessage], summary: Summary) -> list[AnyMessage]:
    if not summary.text:
        return list(messages)
    newer = [messages[place] for place in places_read([_message(each) for each in messages], summary)]
    return [HumanMessage(f"{SO_FAR}\n{summary.text}"), *newer]


def _history_count(messages: Sequence[AnyMessage], run_id: str) -> int:
    """How many messages there were before the run: its question is the last before its first answer."""
    answers = (
        place
        for place, message in enumerate(messages)
        if isinstance(message, AIMessage) and (message.id or "").startswith(f"{run_id}:")
    )
    return next(answers, len(messages)) - 1


def _message(message: AnyMessage) -> Message:
    """The same for the core. What we said to the model is no question of the user's."""
    match message:
        case HumanMessage(name=name) if name != ASKED_AGAIN:
            return Message(role=Role.USER, content=message.text)
        case ToolMessage():
            return Message(role=Role.TOOL, content=message.text, call_id=message.tool_call_id)
        case AIMessage():
            calls = tuple(
                ToolCall(call_id=call["id"] or "", name=call["name"], arguments_json=json.dumps(call["args"]))
                for call in message.tool_calls
            )
            return Message(role=Role.ASSISTANT, content=message.text, calls=calls)
        case _:
            return Message(role=Role.ASSISTANT, content=message.text)
