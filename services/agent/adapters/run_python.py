"""The tool `run_python`: code that a model wrote, run by SandboxService with the caller's own token."""

import asyncio
import codecs
import json
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

import grpc.aio
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest, ExecuteResponse
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceStub

from services.agent.adapters.refusals import refusal_of
from services.agent.core.events import Channel
from services.agent.core.tool_result import Execution, result_text
from services.agent.ports import CallContext, Effect, ToolResult, ToolSpec
from services.common.grpc.client import bearer, held

DOMAIN = "sandbox.ollamesh"
SERVICE = "ollamesh.sandbox.v1.SandboxService"
OUTPUT_BYTES_MAX = 65_536  # Of each channel, shown to watchers; the model reads the end of it.
CODE_BYTES_MAX = 1_048_576
TEXTS = ("text/plain", "text/markdown", "application/json")  # The first that a result has is read.

SPEC = ToolSpec(
    name="run_python",
    description="Runs Python 3 code in a fresh sandbox without network, and returns what it prints.",
    parameters_json_schema=json.dumps(
        {
            "type": "object",
            "properties": {
                "code": {
                    "type": "string",
                    "description": "Python code that prints its result, such as: print(2 + 3)",
                }
            },
            "required": ["code"],
        }
    ),
    effect=Effect.NONE,  # A fresh jail without network: nothing is left of a call but its result.
    timeout_s=30.0,
)


@dataclass(slots=True)
class _Heard:
    """One channel's bytes as text; a character may be split between two events."""

    text: str = ""
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def add(self, data: bytes, *, final: bool = False) -> str:
        new = self.decoder.decode(data, final)
        self.text += new
        return new


class RunPython:
    """Implements ports.Tool."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = SandboxServiceStub(channel)
        self.spec = SPEC

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        code = arguments.get("code")
        if not _is_program(code):
            return ToolResult(content='Call it with {"code": "..."}: a program as text.', failed=True)
        remaining_s = context.deadline_s - asyncio.get_running_loop().time()
        request = ExecuteRequest(
            spec=pb.ExecutionSpec(code=code, limits=pb.Limits(output_bytes=OUTPUT_BYTES_MAX))
        )
        timeout_s = max(0.0, min(remaining_s, SPEC.timeout_s))
        try:
            # Left early, because this call is being cancelled, the execution is killed.
            with held(self._stub.Execute(request, timeout=timeout_s, metadata=bearer(context.token))) as call:
                return await _follow(call, context)
        except grpc.aio.AioRpcError as error:
            refusal = refusal_of(error, domain=DOMAIN)
            return ToolResult(content=f"The code was not run to its end: {refusal}.", failed=True)


async def _follow(call: AsyncIterable[ExecuteResponse], context: CallContext) -> ToolResult:
    heard = {Channel.STDOUT: _Heard(), Channel.STDERR: _Heard()}
    values: list[str] = []
    exited: pb.ExecutionEvent.Exited | None = None

    async def hear(channel: Channel, data: bytes, *, final: bool = False) -> None:
        if text := heard[channel].add(data, final=final):
            await context.write(channel, text)

    async for response in call:
        match response.event.WhichOneof("event"):
            case "stdout":
                await hear(Channel.STDOUT, response.event.stdout.data)
            case "stderr":
                await hear(Channel.STDERR, response.event.stderr.data)
            case "result":
                values.append(_text_of(response.event.result.data))
            case "exited":
                exited = response.event.exited
    for channel in heard:
        await hear(channel, b"", final=True)
    execution = Execution(
        stdout=heard[Channel.STDOUT].text,
        stderr=heard[Channel.STDERR].text,
        value="\n".join(filter(None, values)),
        problem=" ".join(filter(None, (_problem(exited), _limits_reached(exited)))),
    )
    failed = exited is None or exited.outcome != pb.OUTCOME_OK
    return ToolResult(content=result_text(execution), failed=failed)


def _text_of(forms: Mapping[str, bytes]) -> str:
    """A result as a model can read it; of an image only that there is one, for models look at none here."""
    text = next((forms[mime] for mime in TEXTS if mime in forms), b"").decode(errors="replace")
    images = [f"[{mime}, {len(data)} bytes]" for mime, data in forms.items() if mime.startswith("image/")]
    return " ".join(filter(None, (text, *images)))


def _limits_reached(exited: pb.ExecutionEvent.Exited | None) -> str:
    """Why a program that looks right may have failed: the sandbox refused it something."""
    reached = exited.limits_reached if exited is not None else ()
    names = [pb.LimitKind.Name(kind).removeprefix("LIMIT_KIND_").lower() for kind in reached]
    return f"It reached its limits: {', '.join(names)}." if names else ""


def _problem(exited: pb.ExecutionEvent.Exited | None) -> str:
    if exited is None:
        return "The sandbox did not say how the program ended."
    if exited.outcome == pb.OUTCOME_OK:
        return ""
    if exited.outcome == pb.OUTCOME_ERROR:
        return f"The program failed with exit code {exited.exit_code}."
    outcome = pb.Outcome.Name(exited.outcome).removeprefix("OUTCOME_")
    return f"The program was ended: {exited.message or outcome}."


def _is_program(code: object) -> TypeGuard[str]:
    """Text that can travel: models also write halves of surrogate pairs."""
    if not isinstance(code, str) or not code.strip():
        return False
    try:
        return len(code.encode()) <= CODE_BYTES_MAX
    except UnicodeEncodeError:
        return False
