"""Executions as their owners know them: started under an id, found by it, and audited."""

import uuid
from dataclasses import dataclass
from typing import Protocol

from services.common.audit import Trail
from services.common.errors import MeshError
from services.common.tokens import Caller
from services.sandbox.core.kept_results import RESULT_BOUNDS, ResultBounds
from services.sandbox.core.limits import Asked
from services.sandbox.core.owners import Owner
from services.sandbox.execution import Execution, Exited
from services.sandbox.executions_told import teller
from services.sandbox.limits_config import RoleCaps
from services.sandbox.ports import Program
from services.sandbox.registry import Registry
from services.sandbox.running import Job, Runner
from services.sandbox.telemetry import SandboxMetrics


class Runners(Protocol):
    def find(self, owner: Owner, *, session_id: str, engine: str, profile: str) -> Runner:
        """Who runs what; "" leaves a choice. Raises SessionNotFound, InvalidRequest, and what Catalogue.find does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller wants run, and where; "" leaves a choice."""

    program: Program
    asked: Asked
    engine: str = ""
    profile: str = ""
    session_id: str = ""
    digest: bytes = b""  # Of all of it.


def owner_of(who: Caller) -> Owner:
    return Owner(who.organization_id, who.user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executions:
    runners: Runners
    metrics: SandboxMetrics
    registry: Registry
    caps: RoleCaps
    trail: Trail
    result_bounds: ResultBounds = RESULT_BOUNDS

    def find(self, who: Caller, execution_id: str) -> Execution:
        """Raises ExecutionNotFound."""
        return self.registry.find(owner_of(who), execution_id)

    def start(self, who: Caller, wish: Wish) -> Execution:
        """Start one whose caller stays with it to its end.

        Raises what Runners.find and Runner.start do.
        """
        return self._start(who, wish, str(uuid.uuid4()), stays=True)

    def start_once(self, who: Caller, wish: Wish, execution_id: str) -> Execution:
        """Likewise, but with an id of the caller's, by which a second call finds the first one's execution.

        Raises RequestIdReused, too.
        """
        known = self.registry.same(owner_of(who), execution_id, wish.digest)
        return known or self._start(who, wish, execution_id, stays=False)

    def _start(self, who: Caller, wish: Wish, execution_id: str, *, stays: bool) -> Execution:
        owner, tell = owner_of(who), teller(self.trail, who, wish.program.code)

        def told(execution_id: str, result: Exited | MeshError) -> None:
            tell(execution_id, result)
            self.registry.ended(owner, execution)

        runner = self.runners.find(
            owner, session_id=wish.session_id, engine=wish.engine, profile=wish.profile
        )
        job = Job(
            execution_id=execution_id,
            owner=owner,
            program=wish.program,
            asked=wish.asked,
            caps=self.caps.of(who),
            told=told,
            result_bounds=self.result_bounds,
        )
        try:
            execution = runner.start(job)
        except MeshError as error:
            self.metrics.refused(error)
            tell(execution_id, error)  # Somebody wanted it run.
            raise
        self.registry.add(owner, execution, wish.digest, told=stays)
        return execution
