"""Executions: protobuf on one side, domain types on the other; decides nothing."""

import uuid
from collections.abc import AsyncIterator

from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest, ExecuteResponse

from services.common.audit import Trail
from services.common.errors import NotServed
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.lifecycle import Event
from services.sandbox.core.owners import Owner
from services.sandbox.engine import Engine
from services.sandbox.executions_told import teller
from services.sandbox.fresh import Fresh
from services.sandbox.limits_config import RoleCaps
from services.sandbox.ports import Program
from services.sandbox.rpc.messages import asked_limits, event_message
from services.sandbox.running import Job


class ExecutionMethods:
    def __init__(self, engine: Engine, catalogue: Catalogue, trail: Trail, caps: RoleCaps) -> None:
        self._engine, self._catalogue, self._trail, self._caps = engine, catalogue, trail, caps

    async def Execute(self, request: ExecuteRequest, context: Context) -> AsyncIterator[ExecuteResponse]:
        spec = request.spec
        if spec.session_id:
            raise NotServed
        jails = self._catalogue.find(engine=spec.engine, profile=spec.profile)
        code, who = spec.code.encode(), caller()
        job = Job(
            execution_id=str(uuid.uuid4()),
            owner=Owner(who.organization_id, who.user_id),
            program=Program(code, spec.stdin, spec.stdin_open),
            asked=asked_limits(spec.limits),
            caps=self._caps.of(who),
            told=teller(self._trail, who, code),
        )
        execution = Fresh(self._engine, jails).start(job)
        # However the call ends: a `finally` would run late, and in another task.
        context.add_done_callback(lambda _: execution.on(Event.LEFT))  # type: ignore[arg-type]
        sequence = 0
        async for event in execution.events():
            sequence += 1
            yield ExecuteResponse(event=event_message(event, sequence, engine=jails.engine))
