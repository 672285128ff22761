"""One llama.cpp process, and what is asked of it over HTTP."""

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from deploy.local.runtime.errors import (
    LoadFailedError,
    LoadTimeoutError,
    RunnerFailedError,
    RunnerLostError,
    RunnerRefusedError,
)
from deploy.local.runtime.llama_server import Settings
from services.common.launch import Guard

PROGRAM = Path(__file__).with_name("llama_server.py")
# Threads that wait for each other by spinning lose their whole time slice where cores are shared: without
# these two, generation falls from 28 to 2 tokens per second. OpenMP reads them when it is loaded.
PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
# Of the last event; by default it repeats the prompt and the grammar.
FINAL_FIELDS = ["content", "stop", "stop_type", "timings"]
EVENT = b"data: "
FOREIGN_CONTEXT = "the context holds tokens that the model does not know"


class Timings(Struct):
    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


class Event(Struct):
    """A piece of a completion; with `stop`, its end."""

    content: str = ""
    stop: bool = False
    stop_type: str = ""
    timings: Timings = msgspec.field(default_factory=Timings)
    error: dict[str, object] | None = None

    @property
    def cut_short(self) -> bool:
        """Ended because its tokens ran out."""
        return self.stop_type == "limit"


@dataclass(frozen=True, slots=True)
class Embeddings:
    vectors: Sequence[list[float]]
    token_count: int


class _Prompt(Struct):
    prompt: str


class _Tokens(Struct):
    tokens: list[int]


class _Content(Struct):
    content: str


class _Vector(Struct):
    index: int
    embedding: list[float]


class _Usage(Struct):
    prompt_tokens: int


class _Embeddings(Struct):
    data: list[_Vector]
    usage: _Usage


class _Reason(Struct):
    message: str


class _Failure(Struct):
    error: _Reason


_Answer = TypeVar("_Answer", _Prompt, _Tokens, _Content, _Embeddings)


class Runner:
    """Raises WireError for everything that can go wrong."""

    def __init__(
        self, process: asyncio.subprocess.Process, session: aiohttp.ClientSession, url: str, key: str
    ) -> None:
        self._process = process
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._killed = False

    @classmethod
    async def start(cls, settings: Settings, session: aiohttp.ClientSession, *, timeout_s: float) -> "Runner":
        """Returns when the model is loaded. Cancelling it leaves no process."""
        key = secrets.token_urlsafe(32)
        process = await asyncio.create_subprocess_exec(
            *Guard().command((sys.executable, "-P", str(PROGRAM), json.dumps(settings))),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **PATIENT_THREADS, "OLLAMESH_RUNNER_KEY": key},
        )
        with contextlib.ExitStack() as undo:
            undo.callback(_kill, process)
            try:
                async with asyncio.timeout(timeout_s):
                    url = await _address(process)
            except TimeoutError as error:
                raise LoadTimeoutError from error
            undo.pop_all()
        return cls(process, session, url, key)

    @property
    def exited(self) -> bool:
        return self._killed or self._process.returncode is not None

    def kill(self) -> None:
        """At once: there is nothing to save."""
        self._killed = True
        _kill(self._process)

    async def wait(self) -> None:
        await self._process.wait()

    async def apply_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The model's own chat template, up to where the assistant speaks."""
        return (await self._ask("/apply-template", {"messages": messages}, _Prompt)).prompt

    async def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return (await self._ask("/tokenize", body, _Tokens)).tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Raises RunnerRefusedError if there is one that the model has not."""
        try:
            return (await self._ask("/detokenize", {"tokens": tokens}, _Content)).content
        except RunnerFailedError as error:  # llama.cpp looks it up and fails.
            raise RunnerRefusedError(FOREIGN_CONTEXT) from error

    async def embed(self, inputs: Sequence[str | list[int]]) -> Embeddings:
        """One vector for each text, or list of tokens, in order."""
        reply = await self._ask("/v1/embeddings", {"input": inputs}, _Embeddings)
        ordered = sorted(reply.data, key=lambda item: item.index)
        return Embeddings([item.embedding for item in ordered], reply.usage.prompt_tokens)

    async def complete(self, body: Mapping[str, object]) -> AsyncGenerator[Event, None]:
        """Pieces, then one with `stop`. Closing it frees the slot.

        Always streamed: only a failing write tells llama.cpp that nobody listens any more. While it
        computes the prompt it would have nothing to write, hence `return_progress`: an event a batch.
        """
        wanted = {**body, "stream": True, "return_progress": True, "response_fields": FINAL_FIELDS}
        async with self._posted("/completion", wanted) as response:
            async for line in response.content:
                if not line.startswith(EVENT):
                    continue
                event = msgspec.json.decode(line[len(EVENT) :], type=Event)
                if event.error is not None:
                    raise RunnerFailedError(_message(line[len(EVENT) :]))
                yield event
                if event.stop:
                    return
        self.kill()
        raise RunnerLostError

    async def _ask(self, path: str, body: Mapping[str, object], kind: type[_Answer]) -> _Answer:
        async with self._posted(path, body) as response:
            return msgspec.json.decode(await response.read(), type=kind)

    @contextlib.asynccontextmanager
    async def _posted(self, path: str, body: Mapping[str, object]) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.post(
                self._url + path,
                data=msgspec.json.encode(body),
                headers={**self._headers, "Content-Type": "application/json"},
            ) as response:
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise RunnerFailedError(_message(await response.read()))
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise RunnerRefusedError(_message(await response.read()))
                yield response
        except aiohttp.ClientError as error:
            # The process is dead or dying, though its exit may not have been noticed yet.
            self.kill()
            raise RunnerLostError from error


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _address(process: asyncio.subprocess.Process) -> str:
    """The line that the server prints when it is ready."""
    assert process.stdout is not None
    if line := await process.stdout.readline():
        return line.decode().strip()
    raise LoadFailedError(f"exit status {await process.wait()}")


def _message(body: bytes) -> str:
    """What llama.cpp says is wrong."""
    try:
        return msgspec.json.decode(body, type=_Failure).error.message
    except msgspec.DecodeError:
        return "llama-server answered with an error"
