"""The examples of the client's README run as they are written."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ollamesh.inference.v1.completion_pb2 import ChatRequest, ChatResponse, CompletionEvent

from tests.fakes.fake_sandbox import Execution, FakeSandbox
from tests.fakes.scripted_mesh import PASSWORD, ScriptedMesh

ROOT = Path(__file__).parents[2]


def example(text: str) -> str:
    """The one that holds `text`."""
    readme = (ROOT / "clients/python/README.md").read_text()
    found: str
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if text in code]
    return found


async def answer(request: ChatRequest, context: object) -> AsyncIterator[ChatResponse]:
    assert request.model == "smollm2:135m"
    event = CompletionEvent(sequence=1, delta=CompletionEvent.Delta(text="It scatters."))
    yield ChatResponse(event=event)
    finished = CompletionEvent(sequence=2)
    finished.finished.usage.output_token_count = 4
    finished.finished.timings.total.FromMilliseconds(1500)
    yield ChatResponse(event=finished)


async def run_example(folder: Path, edge: str, text: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        example(text),
        cwd=folder,
        env={**os.environ, "OLLAMESH_EDGE": edge},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return output.decode()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    secrets = tmp_path / ".ollamesh" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "admin_password").write_text(PASSWORD + "\n")
    return secrets


async def test_a_chat(tmp_path: Path, secrets: Path) -> None:
    mesh = ScriptedMesh()
    mesh.streams["Chat"] = answer
    async with mesh.serving():
        assert await run_example(tmp_path, mesh.url, "client.chat") == "It scatters.\n4 tokens in 1.5 s\n"
        (secrets / "admin_password").write_text("wrong")
        assert await run_example(tmp_path, mesh.url, "client.chat") == (
            "CREDENTIALS_INVALID: the name or the password is wrong\n"
        )


async def test_the_sandbox(tmp_path: Path, secrets: Path) -> None:
    mesh, sandbox = ScriptedMesh(), FakeSandbox()
    mesh.answer_by(sandbox)
    figure = {"text/plain": b"<Figure>", "image/png": b"\x89PNG"}
    described = {"text/plain": b"count 2", "text/html": b"<table>"}
    sandbox.script = [
        Execution(stdout=[b"42\n"]),
        Execution(results=[described, figure]),
        Execution(echoes=True),
    ]
    async with mesh.serving():
        assert (await run_example(tmp_path, mesh.url, "client.sandbox")).splitlines() == [
            *("42", "ok 0", "['text/html', 'text/plain']", "['image/png', 'text/plain']", "olleh"),
        ]
    assert (tmp_path / "plot.png").read_bytes() == b"\x89PNG"
    assert [spec.session_id for spec in sandbox.specs] == ["", "s1", ""]
    assert sandbox.files["s1"] == {"sales.csv": b"month,sold\n1,20\n2,22\n"}
