"""Executions: protobuf on one side, domain types on the other; decides nothing."""

from collections.abc import AsyncIterator

from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest, ExecuteResponse

from services.common.audit import Trail
from services.common.errors import NotServed
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.lifecycle import Event
from services.sandbox.engine import Engine
from services.sandbox.executions_told import teller
from services.sandbox.ports import Program
from services.sandbox.rpc.messages import asked_limits, event_message


class ExecutionMethods:
    def __init__(self, engine: Engine, catalogue: Catalogue, trail: Trail) -> None:
        self._engine, self._catalogue, self._trail = engine, catalogue, trail

    async def Execute(self, request: ExecuteRequest, context: Context) -> AsyncIterator[ExecuteResponse]:
        spec = request.spec
        if spec.session_id:
            raise NotServed
        jails = self._catalogue.find(engine=spec.engine, profile=spec.profile)
        code = spec.code.encode()
        told = teller(self._trail, caller(), code)
        execution = self._engine.start(jails, Program(code, spec.stdin), asked_limits(spec.limits), told)
        # However the call ends: a `finally` would run late, and in another task.
        context.add_done_callback(lambda _: execution.on(Event.LEFT))  # type: ignore[arg-type]
        sequence = 0
        async for event in execution.events():
            sequence += 1
            yield ExecuteResponse(event=event_message(event, sequence, engine=jails.engine))
