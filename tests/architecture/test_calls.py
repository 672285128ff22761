"""A stream that is called is held: gRPC ends none that was only forgotten (decision 0014)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.test_imports import name_of, sources
from tests.architecture.test_policy import SERVICES

STREAMS = {method.name for service in SERVICES for method in service.methods if method.server_streaming}


def called(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call of a streaming method. Handing the method itself to a helper is none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STREAMS:
            yield node


def kept(tree: ast.AST) -> Iterator[ast.expr]:
    """What a `with` has by `held`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            for item in node.items:
                match item.context_expr:
                    case ast.Call(func=ast.Name(id="held"), args=[call]):
                        yield call


def left_alone(source: str) -> list[int]:
    """The lines on which streams are called that nothing ends."""
    tree = ast.parse(source)
    safe = set(kept(tree))
    return [call.lineno for call in called(tree) if call not in safe]


@pytest.mark.parametrize("path", sources("services", "clients", "deploy"), ids=name_of)
def test_streams_that_are_called_are_held(path: Path) -> None:
    assert left_alone(path.read_text()) == []


def test_the_rule_sees_what_it_forbids() -> None:
    assert "Chat" in STREAMS
    assert left_alone("async for event in stub.Chat(request):\n  break") == [1]
    assert left_alone("call = self.stub.Execute(request)\nwith held(call): ...") == [1]
    assert left_alone("with held(stub.Chat(request)) as call:\n  async for event in call: ...") == []
    assert left_alone("client.stream(stub.Chat, request)\nawait stub.GetFleet(request)") == []
