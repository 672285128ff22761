"""API keys on the whole stack: made on the command line, used by clients that know nothing of us, and ended."""

import asyncio
import json
import os
import sys
from typing import Any

import ollama
import openai
import pytest
from ollamesh.client import ApiKey, Client, runs

from deploy.local.settings import ROOT, Settings
from tests.mesh.edge import MODEL, Edge

HELLO: Any = [{"role": "user", "content": "Say hello."}]
WITHIN_S = 20.0


async def ollamesh(mesh: Settings, *arguments: str, token: str = "") -> tuple[int, str]:
    """Run the command line against the stack; its exit code and its output."""
    environment = {**os.environ, "OLLAMESH_HOME": str(mesh.home), "OLLAMESH_TOKEN": token}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from clients.cli.main import main; main()",
        *arguments,
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode().strip()


async def test_a_key_serves_every_client_until_it_is_revoked(mesh: Settings, edge: Edge) -> None:
    code, key = await ollamesh(mesh, "keys", "create", "mesh test", "--role", "user")
    assert code == 0
    assert key.startswith("omk_live_")
    native: Any = ollama.AsyncClient(host=edge.url, headers={"Authorization": f"Bearer {key}"})
    other = openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=key, max_retries=0)
    async with native, other:
        whole = await native.chat(MODEL, messages=HELLO, options={"num_predict": 4})
        assert whole.message.content
        parts = await other.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4, stream=True)
        assert [part async for part in parts]
        assert MODEL in [model.id async for model in other.models.list()]
        async with Client(edge.url, ApiKey(key)) as client:
            assert MODEL in [model.name for model in await client.models()]
            # The agent goes on to the model with what it was given.
            events = [event async for event in client.run("Say hello.", runs.Config(model=MODEL))]
            assert isinstance(events[-1], runs.Finished)
            assert events[-1].status == "succeeded", events[-1]
        assert (await ollamesh(mesh, "models", "ls", token=key))[0] == 0

        listed = json.loads((await ollamesh(mesh, "keys", "ls", "--json"))[1])["api_keys"]
        (known,) = [one for one in listed if key.startswith(one["prefix"])]
        assert (known["display_name"], known["role"]) == ("mesh test", "user")
        assert (await ollamesh(mesh, "keys", "revoke", known["api_key_id"]))[0] == 0
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    await other.models.list()
                except openai.AuthenticationError:
                    break
                await asyncio.sleep(0.1)
        with pytest.raises(ollama.ResponseError) as refused:
            await native.list()
        assert refused.value.status_code == 401
    assert (await ollamesh(mesh, "models", "ls", token=key))[0] == 4


async def test_no_key_is_in_any_log_of_the_stack(mesh: Settings, edge: Edge) -> None:
    _, key = await ollamesh(mesh, "keys", "create", "logged")
    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=key, max_retries=0) as client:
        assert [model.id async for model in client.models.list()]
    secret = key.rpartition("_")[2]
    for log in (mesh.home / "logs").glob("*.log"):
        assert secret not in log.read_text(errors="replace"), log.name
