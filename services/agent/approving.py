"""Takes people's decisions about calls that wait for one.

Whose the run is was asked before anything else: only its owner can decide, and to others there is no such run. A tool
can not, though it acts with the owner's rights: its tokens are good for other services only.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from services.agent.calling import Problem
from services.agent.core.approvals import Decided, asked_in, check_hash, is_too_late
from services.agent.core.conversation import ToolCall
from services.agent.core.events import ApprovalRequested, Decision, Status
from services.agent.core.ids import Owner, RunId
from services.agent.core.pii import Detectors, PiiRule, Redactor, redacted
from services.agent.core.record import Record
from services.agent.core.text_filter import filtered
from services.agent.errors import ApprovalNotFound
from services.agent.ports import Approvals, Events, RunRecord, Runs, ToolSpec
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import InvalidRequest, Violation

EDITED_FIELD = "edit.arguments_json"
PERSONAL = "holds personal data that the run's pii_rules keep out"
NO_TOOL = "the tool is there no more"


class Approving:
    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        *,
        runs: Runs,
        events: Events,
        approvals: Approvals,
        tools: Mapping[str, ToolSpec],
        trail: Trail,
        clock: Callable[[], float],
        problem: Problem,
        detectors: Detectors,
        go_on: Callable[[RunId], Awaitable[None]],
    ) -> None:
        """`problem` says how arguments break a JSON Schema; `go_on` has a run that waits gone on with."""
        self._runs, self._events, self._approvals = runs, events, approvals
        self._tools, self._trail, self._clock = tools, trail, clock
        self._problem, self._detectors, self._go_on = problem, detectors, go_on

    async def submit(
        self, owner: Owner, run_id: RunId, approval_id: UUID, *, call_hash: bytes, decided: Decided
    ) -> RunRecord:
        """Store a decision and have the run gone on with. The same decision again is no other one.

        Raises RunNotFound, ApprovalNotFound, ApprovalMismatch, InvalidRequest, PiiBlocked, AuditUnavailable.
        """
        run = await self._runs.find(owner, run_id)
        question, call = asked_in((event for _, event in await self._events.told(run_id)), approval_id)
        check_hash(call_hash, question, call)
        decided = self._without_pii(run.config.pii_rules, self._with_sound_arguments(call, decided))
        holds = (await self._approvals.settled(run_id)).get(approval_id)
        if holds is None:
            if run.outcome is not None or is_too_late(question, now_s=self._clock()):
                raise ApprovalNotFound
            await self._trail.assure(_happened(owner, run_id, call, call_hash, decided))
            holds = await self._approvals.settle(run_id, question, decided)
        if holds != decided:
            raise ApprovalNotFound
        await self._go_on(run_id)  # Again too: the one before may have died before it did.
        return await self._runs.find(owner, run_id)

    async def pending(self, run: RunRecord) -> Sequence[ApprovalRequested]:
        """What a run waits for."""
        if run.status is not Status.INTERRUPTED:
            return ()
        record = Record(event for _, event in await self._events.told(run.run_id))
        settled = await self._approvals.settled(run.run_id)
        return [question for question in record.questions if question.approval_id not in settled]

    def _with_sound_arguments(self, call: ToolCall, decided: Decided) -> Decided:
        """An edited call is checked as the model's own are. Raises InvalidRequest."""
        if decided.decision is not Decision.EDITED:
            return decided
        try:
            arguments = json.loads(decided.arguments_json, parse_constant=_refuse)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise InvalidRequest([Violation(EDITED_FIELD, "is no JSON object")])
        spec = self._tools.get(call.name)
        problem = self._problem(spec.parameters_json_schema, arguments) if spec else NO_TOOL
        if problem is not None:
            raise InvalidRequest([Violation(EDITED_FIELD, problem)])
        return Decided(
            decision=decided.decision, user_id=decided.user_id, arguments_json=json.dumps(arguments)
        )

    def _without_pii(self, rules: Sequence[PiiRule], decided: Decided) -> Decided:
        """What people say to a run keeps its rules. Raises PiiBlocked, InvalidRequest.

        Arguments are made or refused as they are: what is called is what was approved.
        """

        def clean(text: str) -> str:
            return filtered(text, Redactor(rules, self._detectors)) if rules else text

        if decided.decision is Decision.EDITED:
            arguments: object = json.loads(decided.arguments_json)
            if redacted(arguments, clean) != arguments:
                raise InvalidRequest([Violation(EDITED_FIELD, PERSONAL)])
        return replace(decided, reason=clean(decided.reason))


def _refuse(name: str) -> object:
    raise ValueError(name)  # NaN and its like are Python's, not JSON's.


def _happened(owner: Owner, run_id: RunId, call: ToolCall, call_hash: bytes, decided: Decided) -> Happened:
    """Arguments are content: of them only the hash is kept."""
    rejected = decided.decision is Decision.REJECTED
    return Happened(
        action=Action.TOOL_APPROVED,
        outcome=Outcome.DENIED if rejected else Outcome.ALLOWED,
        user_id=owner.user_id,
        organization_id=owner.organization_id,
        object=f"run/{run_id}",
        details={
            "tool": call.name,
            "call": call.call_id,
            "call_hash": call_hash.hex(),
            "decision": decided.decision.value.lower(),
        },
    )
