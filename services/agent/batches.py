"""Many runs at once, for when there is nothing more urgent: accepted all or none, and worked on by whoever has room.

They act by one mandate, which therefore outlives each of them and is ended by nobody: it expires a day after the batch
was accepted, and what is not begun by then fails with ACCESS_ENDED.
"""

from collections.abc import Sequence
from uuid import uuid4

import structlog

from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.run_config import Chosen
from services.agent.errors import AccessEnded
from services.agent.ports import Mandates, NewRun, Retry, RunRecord, Runs
from services.common.errors import MeshError, ScopeRequired, StoreFailure

log = structlog.get_logger(__name__)

LIFETIME_S = 86_400.0


class Batches:
    def __init__(self, runs: Runs, mandates: Mandates) -> None:
        self._runs, self._mandates = runs, mandates

    async def repeated(self, owner: Owner, retry: Retry | None) -> Sequence[RunRecord] | None:
        """The runs that the same request made before. Raises RequestIdReused, StoreFailure."""
        return await self._runs.repeated_batch(owner, retry) if retry else None

    async def start(
        self, owner: Owner, questions: Sequence[str], chosen: Chosen, *, token: str, retry: Retry | None
    ) -> Sequence[RunRecord]:
        """The runs, in the order of the questions, each on a thread of its own; or those of the same request before.

        Raises TooManyObjects, TooManyRuns, RequestIdReused, ScopeRequired, TokenInvalid, AuthUnavailable, StoreFailure.
        """
        new = [
            NewRun(
                run_id=RunId(uuid4()),
                thread_id=ThreadId(uuid4()),
                question=question,
                config=chosen.config,
                assistant_id=chosen.assistant_id,
                assistant_version=chosen.assistant_version,
            )
            for question in questions
        ]
        try:
            mandate = await self._mandates.create(token, lifetime_s=LIFETIME_S)
        except AccessEnded:
            raise ScopeRequired(scope="inference") from None
        try:
            accepted = await self._runs.accept_batch(owner, new, mandate, retry)
        except StoreFailure:
            raise  # They may have been accepted all the same, and act by it. So if the caller leaves just now.
        except MeshError:
            await self._given_back(mandate)
            raise
        if new[0].run_id not in {run.run_id for run in accepted}:
            await self._given_back(mandate)  # A twin of the request was quicker.
        return accepted

    async def _given_back(self, mandate: str) -> None:
        try:
            await self._mandates.end(mandate)
        except MeshError as error:
            log.warning("mandate_not_ended", reason=error.reason)  # It expires by itself.
