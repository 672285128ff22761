"""`ollamesh metrics` and `ollamesh psql` without a stack. With one: tests/mesh/test_runbooks.py."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from clients.cli.main import ollamesh


@pytest.mark.parametrize("arguments", [["metrics", "auth"], ["psql", "-c", "SELECT 1"]])
def test_a_stack_that_does_not_run_is_not_reachable(arguments: list[str], tmp_path: Path) -> None:
    told = CliRunner().invoke(ollamesh, arguments, env={"OLLAMESH_HOME": str(tmp_path)})
    assert told.exit_code == 3
    assert "the stack is not running; start it with `ollamesh up`" in told.output
