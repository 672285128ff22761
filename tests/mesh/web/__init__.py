"""A gRPC-Web client from npm, under the Node.js that a wheel brings."""

import asyncio
import fcntl
import json
from pathlib import Path

from tests import node

ROOT = Path(__file__).parents[3]
FOLDER = Path(__file__).parent


class WebClient:
    """Runs chat.mjs."""

    async def chat(self, edge: str, model: str, token: str, mode: str) -> list[dict[str, object]]:
        process = await asyncio.create_subprocess_exec(
            node.NODE, FOLDER / "chat.mjs", edge, model, token, mode,
            env=node.ENVIRONMENT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0
        return [json.loads(line) for line in output.decode().splitlines()]


def install() -> WebClient:
    """Install its packages, if that was not done, and generate the stubs."""
    node.install(FOLDER)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        node.run(
            ROOT / ".venv" / "bin" / "buf", "generate", "--template", FOLDER / "buf.gen.yaml", folder=ROOT
        )
    return WebClient()
