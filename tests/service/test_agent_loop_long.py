"""Threads that outgrow a model's context: what later runs read of them, and that nothing of them is lost."""

from collections.abc import AsyncIterator

import pytest
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_SUCCEEDED

from services.agent.core.summary import ASK, SO_FAR
from tests.fakes.fake_inference import Reply
from tests.service.agent_app import App, mesh
from tests.stack import Database

CONFIG = RunConfig(model="tiny")
CONFIG.limits.output_token_count_per_call = 64


@pytest.fixture
async def app(module_database: Database) -> AsyncIterator[App]:
    async with mesh(module_database("agent")) as around, around.replica(context_token_count=1024) as made:
        yield made


async def test_a_later_run_reads_the_summary_of_an_earlier_one(app: App) -> None:
    user = app.user()
    thread_id = await user.thread()
    app.inference.otherwise = Reply(texts=["y" * 600])
    for n in range(12):
        run = await user.start(thread_id, f"question {n}: " + "x" * 600, config=CONFIG)
        assert (await user.watch(run.run_id))[-1].finished.status == RUN_STATUS_SUCCEEDED
    contents = [[message.content for message in asked.request.messages] for asked in app.inference.asked]
    summaries = [read for read in contents if read[0].startswith(ASK)]
    answers = [read for read in contents if not read[0].startswith(ASK)]
    assert len(answers) == 12
    assert 1 < len(summaries) < 6, "not before every answer"
    assert answers[-1][0].startswith(SO_FAR)
    assert all(sum(map(len, read)) < 4 * 1024 for read in answers), "what is read fits"
    assert all("question 0" not in "".join(read) for read in summaries[1:]), (
        "each goes on from the one before"
    )
    assert len(await user.messages(thread_id)) == 24, "and nothing is lost"
