"""Inside there is one way to listen and one way to call, and both prove who is there."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAYS = {
    "insecure_channel": {"services/common/grpc/client.py"},
    "secure_channel": {"services/common/grpc/client.py"},
    "add_insecure_port": {"services/common/grpc/server.py"},
    "add_secure_port": {"services/common/grpc/server.py"},
}


def _used_in(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("way", WAYS)
def test_only_one_place_opens_it(way: str) -> None:
    found = {
        str(path.relative_to(ROOT)) for path in (ROOT / "services").rglob("*.py") if way in _used_in(path)
    }
    assert found == WAYS[way]
