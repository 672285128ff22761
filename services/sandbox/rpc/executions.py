"""Executions: protobuf on one side, domain types on the other; decides nothing."""

import uuid
from collections.abc import AsyncIterator

from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest, ExecuteResponse

from services.common.audit import Trail
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.sandbox.core.lifecycle import Event
from services.sandbox.core.owners import Owner
from services.sandbox.executions_told import teller
from services.sandbox.limits_config import RoleCaps
from services.sandbox.ports import Program
from services.sandbox.rpc.messages import asked_limits, event_message
from services.sandbox.runners import Runners
from services.sandbox.running import Job


class ExecutionMethods:
    def __init__(self, runners: Runners, trail: Trail, caps: RoleCaps) -> None:
        self._runners, self._trail, self._caps = runners, trail, caps

    async def Execute(self, request: ExecuteRequest, context: Context) -> AsyncIterator[ExecuteResponse]:
        spec = request.spec
        code, who = spec.code.encode(), caller()
        owner = Owner(who.organization_id, who.user_id)
        runner = self._runners.find(
            owner, session_id=spec.session_id, engine=spec.engine, profile=spec.profile
        )
        job = Job(
            execution_id=str(uuid.uuid4()),
            owner=owner,
            program=Program(code, spec.stdin, spec.stdin_open),
            asked=asked_limits(spec.limits),
            caps=self._caps.of(who),
            told=teller(self._trail, who, code),
        )
        execution = runner.start(job)
        # However the call ends: a `finally` would run late, and in another task.
        context.add_done_callback(lambda _: execution.on(Event.LEFT))  # type: ignore[arg-type]
        sequence = 0
        async for event in execution.events():
            sequence += 1
            yield ExecuteResponse(event=event_message(event, sequence, engine=execution.where.engine))
