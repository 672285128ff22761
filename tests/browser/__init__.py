"""A real browser for tests: headless Chromium, from npm, without root (driver.mjs).

    async with opened() as browser:
        await browser.goto("http://localhost:8080/")
        assert await browser.evaluate("document.title") == "..."

It is a browser of its own each time: no cookies, no cache.
"""

import asyncio
import fcntl
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

from tests import node

FOLDER = Path(__file__).parent
UNPACKED = FOLDER / "node_modules" / ".chromium"
ANSWER_WITHIN_S = 60.0
LINE_BYTES_MAX = 1 << 20


class BrowserError(Exception):
    """The page, or a script in it, failed."""


@dataclass(frozen=True, slots=True)
class Browser:
    """One page."""

    _process: asyncio.subprocess.Process

    async def goto(self, url: str) -> int | None:
        """Return the status."""
        status = await self._ask("goto", url=url)
        assert status is None or isinstance(status, int)
        return status

    async def evaluate(self, script: str) -> object:
        """Run an expression, or an async function's call, in the page."""
        return await self._ask("evaluate", script=script)

    async def fill(self, selector: str, value: str) -> None:
        await self._ask("fill", selector=selector, value=value)

    async def click(self, selector: str) -> None:
        await self._ask("click", selector=selector)

    async def press(self, key: str) -> None:
        await self._ask("press", key=key)

    async def text(self, selector: str) -> str:
        return str(await self._ask("text", selector=selector))

    async def url(self) -> str:
        return str(await self._ask("url"))

    async def until_url(self, start: str) -> None:
        """Return when the page's address begins so."""
        await self._ask("untilUrl", start=start)

    async def cookies(self) -> list[dict[str, object]]:
        found = await self._ask("cookies")
        assert isinstance(found, list)
        return found

    async def screenshot(self, path: Path) -> None:
        await self._ask("screenshot", path=str(path))

    async def _ask(self, command: str, **given: str) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **given}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_WITHIN_S):
            line = await self._process.stdout.readline()
        assert line, "the browser has ended"
        answer = json.loads(line)
        if "error" in answer:
            raise BrowserError(answer["error"])
        return answer["value"]


def _install() -> None:
    """Unpacked once, under a lock: who came second would find half of a program."""
    node.install(FOLDER)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (UNPACKED / "complete").exists():
            UNPACKED.mkdir(exist_ok=True)
            # It brings its libraries only to where it believes to run in the cloud.
            wants_libraries = {"TMPDIR": str(UNPACKED), "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs22.x"}
            node.run(node.NODE, FOLDER / "unpack.mjs", folder=FOLDER, **wants_libraries)
            (UNPACKED / "complete").touch()


def _environment() -> dict[str, str]:
    found = {"CHROMIUM": str(UNPACKED / "chromium"), "FONTCONFIG_PATH": str(UNPACKED / "fonts")}
    if find_library("nss3") is None:
        found["LD_LIBRARY_PATH"] = str(UNPACKED / "al2023" / "lib")
    return found


@asynccontextmanager
async def opened() -> AsyncIterator[Browser]:
    """A browser for as long as the block runs."""
    await asyncio.to_thread(_install)
    process = await asyncio.create_subprocess_exec(
        node.NODE,
        FOLDER / "driver.mjs",
        env={**node.ENVIRONMENT, **_environment()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        yield Browser(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # It ends by itself, and its browser with it.
        await process.wait()
