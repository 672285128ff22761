"""Tools that do nothing and remember with what they were called; and a way to give them to the service."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.agent import app
from services.agent.adapters.toolbox import own_tools
from services.agent.ports import CallContext, Effect, Tool, ToolResult, ToolSpec


@dataclass(slots=True)
class FakeTool:
    """Implements ports.Tool. Answers with `answer`, or with what it makes of the arguments."""

    spec: ToolSpec
    answer: str | Callable[[Mapping[str, object]], str] = "done"
    calls: list[dict[str, object]] = field(default_factory=list)
    contexts: list[CallContext] = field(default_factory=list)

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        self.calls.append(dict(arguments))
        self.contexts.append(context)
        content = self.answer if isinstance(self.answer, str) else self.answer(arguments)
        return ToolResult(content=content, failed=False)


def tool(name: str, effect: Effect, *names: str, **more: Any) -> FakeTool:
    """A tool that takes these arguments, all of them text and none required."""
    answer = more.pop("answer", "done")
    schema = {"type": "object", "properties": {each: {"type": "string"} for each in names}}
    spec = ToolSpec(
        name=name,
        description=name,
        parameters_json_schema=json.dumps({**schema, "additionalProperties": False}),
        effect=effect,
        timeout_s=5.0,
        **more,
    )
    return FakeTool(spec, answer)


def give(monkeypatch: pytest.MonkeyPatch, tools: Iterable[FakeTool]) -> None:
    """Have every replica that starts from now on serve these tools too."""

    def with_these(*arguments: Any, **options: Any) -> Mapping[str, Tool]:
        return {**own_tools(*arguments, **options), **{each.spec.name: each for each in tools}}

    monkeypatch.setattr(app, "own_tools", with_these)
