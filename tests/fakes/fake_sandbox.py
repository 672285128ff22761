"""A SandboxService that runs nothing and says what a test scripts, over a real socket.

Executions are taken from `script`, one for each Execute; when it is empty, `otherwise` answers.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest, ExecuteResponse
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import (
    SandboxServiceServicer,
    add_SandboxServiceServicer_to_server,
)

from services.common.grpc.around import Context, Interceptor
from services.common.grpc.caller import deadline
from services.common.grpc.errors import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What one execution does: its output, then `failure` or its outcome."""

    stdout: Sequence[bytes] = ()
    stderr: Sequence[bytes] = ()
    value: bytes = b""
    outcome: pb.Outcome = pb.OUTCOME_OK
    exit_code: int = 0
    message: str = ""
    failure: Exception | None = None
    hold: asyncio.Event | None = None  # Waits for it after its output.


@dataclass(slots=True)
class FakeSandbox(SandboxServiceServicer):
    script: list[Execution] = field(default_factory=list)
    otherwise: Execution = field(default_factory=lambda: Execution(stdout=[b"42\n"]))
    specs: list[pb.ExecutionSpec] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    running: int = 0
    target: str = ""

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator["FakeSandbox"]:
        fake = cls()
        server = grpc.aio.server(interceptors=[Interceptor([errors("sandbox.ollamesh")], [deadline()])])
        add_SandboxServiceServicer_to_server(fake, server)
        fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield fake
        finally:
            await server.stop(None)

    async def Execute(self, request: ExecuteRequest, context: Context) -> AsyncIterator[ExecuteResponse]:
        metadata = dict(context.invocation_metadata() or ())
        self.specs.append(request.spec)
        self.authorizations.append(str(metadata.get("authorization", "")))
        execution = self.script.pop(0) if self.script else self.otherwise
        self.running += 1
        try:
            sequence = 0
            async for event in _events(execution):
                sequence += 1
                event.sequence = sequence
                yield ExecuteResponse(event=event)
        finally:
            self.running -= 1


async def _events(execution: Execution) -> AsyncIterator[pb.ExecutionEvent]:
    if execution.failure and not execution.stdout:
        raise execution.failure
    yield pb.ExecutionEvent(started=pb.ExecutionEvent.Started(execution_id="e", engine="fake"))
    for data in execution.stdout:
        yield pb.ExecutionEvent(stdout=pb.ExecutionEvent.Output(data=data))
    for data in execution.stderr:
        yield pb.ExecutionEvent(stderr=pb.ExecutionEvent.Output(data=data))
    if execution.hold:
        await execution.hold.wait()
    if execution.failure:
        raise execution.failure
    if execution.value:
        yield pb.ExecutionEvent(result=pb.ExecutionEvent.Result(data={"text/plain": execution.value}))
    yield pb.ExecutionEvent(
        exited=pb.ExecutionEvent.Exited(
            outcome=execution.outcome, exit_code=execution.exit_code, message=execution.message
        )
    )
