"""The example of the client's README runs as it is written."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from ollamesh.inference.v1.completion_pb2 import ChatRequest, ChatResponse, CompletionEvent

from tests.fakes.scripted_mesh import PASSWORD, ScriptedMesh

ROOT = Path(__file__).parents[2]


def example() -> str:
    found = re.search(r"```python\n(.*?)```", (ROOT / "clients/python/README.md").read_text(), re.DOTALL)
    assert found
    return found[1]


async def answer(request: ChatRequest, context: object) -> AsyncIterator[ChatResponse]:
    assert request.model == "smollm2:135m"
    event = CompletionEvent(sequence=1, delta=CompletionEvent.Delta(text="It scatters."))
    yield ChatResponse(event=event)
    finished = CompletionEvent(sequence=2)
    finished.finished.usage.output_token_count = 4
    finished.finished.timings.total.FromMilliseconds(1500)
    yield ChatResponse(event=finished)


async def run_example(folder: Path, edge: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        example(),
        cwd=folder,
        env={**os.environ, "OLLAMESH_EDGE": edge},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return output.decode()


async def test_the_example_runs_as_written(tmp_path: Path) -> None:
    secrets = tmp_path / ".ollamesh" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "admin_password").write_text(PASSWORD + "\n")
    mesh = ScriptedMesh()
    mesh.streams["Chat"] = answer
    async with mesh.serving():
        assert await run_example(tmp_path, mesh.url) == "It scatters.\n4 tokens in 1.5 s\n"
        (secrets / "admin_password").write_text("wrong")
        assert await run_example(tmp_path, mesh.url) == (
            "CREDENTIALS_INVALID: the name or the password is wrong\n"
        )
