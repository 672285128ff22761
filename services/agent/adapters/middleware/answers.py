"""Answers that must keep a JSON Schema: checked once the model has given one, and asked for again if need be.

Each time it is asked is a step of its own, told and counted as any other. That the model was asked again is told by
the conversation, so that whoever goes on with the run asks no more often.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage

from services.agent.adapters.json_schemas import checked_by
from services.agent.adapters.middleware.context import RunContext
from services.agent.core.structured import REPAIRS_MAX, asked_again, problem_of
from services.agent.errors import OutputInvalid

ASKED_AGAIN = "asked_again"  # The name of messages that are ours, not the user's.


class Answers(AgentMiddleware[AgentState[Any], RunContext]):
    """Wraps whatever asks the model for one step."""

    async def awrap_model_call(
        self,
        request: ModelRequest[RunContext],
        handler: Callable[[ModelRequest[RunContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        response = await handler(request)
        schema = request.runtime.context.assignment.config.response_json_schema
        if not schema:
            return response
        said: list[Any] = []
        while (problem := _problem(response.result, schema)) is not None:
            if is_asked_again([*request.messages, *said]) >= REPAIRS_MAX:
                raise OutputInvalid(problem)
            said += [*response.result, HumanMessage(asked_again(problem), name=ASKED_AGAIN)]
            messages = [*request.messages, *said]
            state: Any = {**request.state, "messages": messages}
            response = await handler(request.override(messages=messages, state=state))
        return ModelResponse(result=[*said, *response.result])


def is_asked_again(messages: Sequence[AnyMessage]) -> int:
    """How often the model has been asked again for the answer that is to come."""
    count = 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage) and message.name == ASKED_AGAIN:
            count += 1
        elif not (isinstance(message, AIMessage) and not message.tool_calls):
            break
    return count


def format_of(schema: str) -> dict[str, Any]:
    """As runtimes take it."""
    read: dict[str, Any] = json.loads(schema)
    return read


def _problem(result: Sequence[BaseMessage], schema: str) -> str | None:
    answer = result[-1]
    assert isinstance(answer, AIMessage)
    return None if answer.tool_calls else problem_of(answer.text, checked_by(schema).problem)
