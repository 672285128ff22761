"""Fixtures for tests that run `ollamesh` against a scripted mesh; import the fixtures that a test names."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ollamesh.inference.v1.model_pb2 import (
    CAPABILITY_COMPLETION,
    CAPABILITY_EMBEDDING,
    ListModelsResponse,
    Model,
)

from clients.cli.main import ollamesh
from deploy.local import board
from deploy.local.process import identify
from deploy.local.settings import ROOT
from tests.fakes.scripted_mesh import PASSWORD, ScriptedMesh, Stream, Unary

MODELS = ListModelsResponse(
    models=[
        Model(name="minilm", capabilities=[CAPABILITY_EMBEDDING], size_bytes=46 << 20),
        Model(
            name="llama3.2:3b",
            capabilities=[CAPABILITY_COMPLETION],
            size_bytes=2 << 30,
            vram_bytes=3 << 30,
            resident_instances=["one"],
            pinned=True,
        ),
    ]
)


# `ollamesh`, as its script has it.
PROGRAM = (sys.executable, "-c", "from clients.cli.main import main; main()")


async def in_a_process(
    *arguments: str, edge: str, token: str, folder: Path, stdin: bytes, within_s: float
) -> tuple[int, str, str]:
    """Run a command in `folder`; return its exit code and what it printed."""
    settings = {
        "OLLAMESH_EDGE": edge,
        "OLLAMESH_TOKEN": token,
        "OLLAMESH_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    process = await asyncio.create_subprocess_exec(
        *(*PROGRAM, *arguments),
        cwd=folder,
        env={**os.environ, **settings},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), within_s)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Cli:
    """Runs a command in this process and gives what it printed."""

    def __init__(self, home: Path, edge: str) -> None:
        self.environment = {
            "OLLAMESH_HOME": str(home),
            "OLLAMESH_EDGE": edge,
            "OLLAMESH_TOKEN": "",
            "NO_COLOR": "1",
        }

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        return CliRunner().invoke(
            ollamesh, arguments, input=stdin, env={**self.environment, **environment}, catch_exceptions=False
        )


@pytest.fixture
def mesh() -> Iterator[ScriptedMesh]:
    """Has two models, of which one can talk, and nothing else yet."""
    mesh = ScriptedMesh()
    mesh.unary["ListModels"] = answering(MODELS)
    with mesh.serving_in_a_thread():
        yield mesh


@pytest.fixture
def home(tmp_path: Path, mesh: ScriptedMesh) -> Path:
    """Of a local stack, which is the scripted mesh, and whose admin may log in."""
    pretend_to_be_a_stack(tmp_path, mesh.url)
    return tmp_path


def pretend_to_be_a_stack(home: Path, edge: str) -> None:
    """Make `home` that of a running stack: this process supervises it, and its admin has PASSWORD."""
    (home / "secrets").mkdir()
    (home / "secrets" / "admin_password").write_text(PASSWORD + "\n")
    me = identify(os.getpid())
    assert me is not None
    board.write(home, board.Board(supervisor=me, warden=None, ready=True, edge=edge, model_source=""))


@pytest.fixture
def cli(home: Path, mesh: ScriptedMesh) -> Cli:
    return Cli(home, mesh.url)


def answering(response: object) -> Unary:
    """Answer with `response`, or fail with it."""

    async def answer(request: object, context: object) -> Any:
        if isinstance(response, Exception):
            raise response
        return response

    return answer


def streaming(*responses: object) -> Stream:
    """Stream `responses`; one that is an exception ends the stream."""

    async def answer(request: object, context: object) -> AsyncIterator[Any]:
        for response in responses:
            if isinstance(response, Exception):
                raise response
            yield response

    return answer


def json_lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]
