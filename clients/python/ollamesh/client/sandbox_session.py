"""A session of the sandbox to work in: its programs share variables and files."""

from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING

from ollamesh.client import executions, sessions
from ollamesh.client.executions import Limits
from ollamesh.client.transfers import Content

if TYPE_CHECKING:
    from ollamesh.client.sandbox import Sandbox


class SandboxSession:
    """Made by `Sandbox.session` and `Sandbox.open_session`. One program at a time runs in it."""

    def __init__(self, sandbox: "Sandbox", session_id: str) -> None:
        self.session_id = session_id
        self._sandbox = sandbox

    async def info(self) -> sessions.Session:
        """Tell its state, and when it ends."""
        return await self._sandbox.get_session(self.session_id)

    def execute(
        self,
        code: str,
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        limits: Limits | None = None,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[executions.Event, None]:
        """Run a program in it and stream what it does. Leaving the stream kills the program."""
        return self._sandbox.execute(
            code, stdin=stdin, limits=limits, session_id=self.session_id, deadline_s=deadline_s
        )

    async def run(
        self,
        code: str,
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        limits: Limits | None = None,
        deadline_s: float | None = None,
    ) -> executions.Completed:
        """Run a program in it to its end and return all that it told."""
        return await self._sandbox.run(
            code, stdin=stdin, limits=limits, session_id=self.session_id, deadline_s=deadline_s
        )

    async def put(self, path: str, content: Content, *, size_bytes: int | None = None) -> sessions.File:
        """Write a file: bytes, a local Path, or an iterator of `size_bytes` in all."""
        return await self._sandbox.put_file(self.session_id, path, content, size_bytes=size_bytes)

    async def get(self, path: str) -> bytes:
        """Return a file's bytes."""
        return await self._sandbox.get_file(self.session_id, path)

    async def save(self, path: str, to: Path) -> None:
        """Write a file of the session to `to`, on this machine."""
        await self._sandbox.save_file(self.session_id, path, to)

    def read(self, path: str, *, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Stream a file's bytes from `offset` on."""
        return self._sandbox.read_file(self.session_id, path, offset=offset)

    def files(self, path: str = "") -> AsyncGenerator[sessions.File, None]:
        """List what is in a folder, by name."""
        return self._sandbox.list_files(self.session_id, path)

    async def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it."""
        await self._sandbox.delete_file(self.session_id, path)

    async def delete(self) -> None:
        """End the session and forget its files."""
        await self._sandbox.delete_session(self.session_id)
