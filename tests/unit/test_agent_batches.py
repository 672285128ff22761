"""The one mandate of a batch is given back where nothing was accepted for sure, and only there."""

import asyncio
from collections.abc import Sequence

import pytest

from services.agent.batches import Batches
from services.agent.core.ids import Owner
from services.agent.core.run_config import Chosen
from services.agent.errors import TooManyRuns
from services.agent.ports import NewRun, Retry, RunRecord
from services.common.errors import MeshError, StoreUnavailable
from tests.fakes.agent_parts import PLAIN
from tests.unit.agent_engine_rig import ANN, Auth, Store


class Accepting(Store):
    """Whether it accepts or not, its reply is a failure, or never comes."""

    async def accept_batch(
        self, owner: Owner, new: Sequence[NewRun], mandate: str, retry: Retry | None
    ) -> Sequence[RunRecord]:
        if self.failure is None:
            await asyncio.Event().wait()
        assert self.failure is not None
        raise self.failure


async def started(runs: Accepting, auth: Auth) -> None:
    chosen = Chosen(config=PLAIN, assistant_id=None, assistant_version=0)
    await Batches(runs, auth).start(ANN, ["?"], chosen, token="t", retry=None)


@pytest.mark.parametrize(
    ("failure", "ended"), [(TooManyRuns(runs_max=1), ["mandate 1"]), (StoreUnavailable(), [])]
)
async def test_runs_that_may_have_been_accepted_keep_their_mandate(
    failure: MeshError, ended: Sequence[str]
) -> None:
    runs, auth = Accepting(), Auth()
    runs.failure = failure
    with pytest.raises(type(failure)):
        await started(runs, auth)
    assert auth.ended == ended


async def test_a_caller_that_leaves_takes_no_mandate_from_what_it_may_have_started() -> None:
    runs, auth = Accepting(), Auth()
    starting = asyncio.create_task(started(runs, auth))
    while not auth.made:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert auth.ended == []
