"""Checkpoints of a thread's runs, listed."""

from collections.abc import AsyncIterator
from uuid import UUID

import grpc
import pytest
from ollamesh.agent.v1 import agent_service_pb2 as pb

from services.agent.adapters.checkpoints import SEAL_PURPOSE, Checkpoints
from services.common.postgres import Database as Pool
from services.common.seals import Seals
from tests.contract.checkpoint_rig import put
from tests.service.agent_app import ENCRYPTION_KEY, App, User, mesh, refusal
from tests.stack import Database


@pytest.fixture
async def app(module_database: Database) -> AsyncIterator[App]:
    async with mesh(module_database("agent")) as around, around.replica() as running:
        yield running


async def page(user: User, thread_id: str, size: int = 0, token: str = "") -> pb.ListCheckpointsResponse:
    request = pb.ListCheckpointsRequest(thread_id=thread_id, page_size=size, page_token=token)
    return await user.stub.ListCheckpoints(request, **user.options)


async def test_a_threads_checkpoints_are_listed_newest_first_whatever_the_page(
    app: App, module_database: Database
) -> None:
    ann = app.user()
    thread_id, other_id = await ann.thread(), await ann.thread()
    runs = [(await ann.start(where)).run_id for where in (thread_id, thread_id, other_id)]
    for run_id in runs:
        await ann.watch(run_id)
    async with Pool.connect(module_database("agent"), connections_max=1) as connected:
        saver = Checkpoints(connected, Seals([ENCRYPTION_KEY], purpose=SEAL_PURPOSE)).of("o", None)
        for run_id in runs:
            for _ in range(3):
                await put(saver, run_id)
    whole = (await page(ann, thread_id, 100)).checkpoints
    assert {each.run_id for each in whole} == set(runs[:2])
    assert [each.checkpoint_id for each in whole] == sorted(
        (each.checkpoint_id for each in whole), reverse=True
    )
    assert all(each.HasField("create_time") for each in whole)
    for size in (1, 4, len(whole), 50):
        found: list[pb.Checkpoint] = []
        token = ""
        while True:
            part = await page(ann, thread_id, size, token)
            assert len(part.checkpoints) <= size
            found += part.checkpoints
            if not (token := part.next_page_token):
                break
        assert found == list(whole)
    assert UUID(whole[0].checkpoint_id)


@pytest.mark.parametrize(("name", "org"), [("bob", "o"), ("ann", "elsewhere")])
async def test_to_others_there_is_no_such_thread(app: App, name: str, org: str) -> None:
    thread_id = await app.user().thread()
    call = page(app.user(name, org=org), thread_id)
    assert (await refusal(call))[:2] == (grpc.StatusCode.NOT_FOUND, "THREAD_NOT_FOUND")


@pytest.mark.parametrize("token", ["nonsense!", "%", "'; DROP", "x" * 400, "\0"])
async def test_a_page_token_that_nobody_gave_is_refused(app: App, token: str) -> None:
    ann = app.user()
    assert (await refusal(page(ann, await ann.thread(), token=token)))[1] == "INVALID_REQUEST"
