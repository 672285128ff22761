"""A new version behind a real Envoy, under load: it comes in, goes back, and is taken back by itself when it is bad.

The services only echo: what is tested is who gets which call, and what callers see of it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc.aio
import pytest
import pytest_asyncio

from deploy.envoy import endpoints
from deploy.envoy.config import Endpoint
from deploy.envoy.sets import WeightError
from deploy.rollout import driver
from deploy.rollout.core import Policy
from deploy.rollout.driver import Driver, Place, Record, RolloutError
from services.common.grpc.client import bearer
from tests.service import auth_app, edge_app
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import CHAT, GET_FLEET, Call, Replica, Stack, echo, replica, until_keys_are_known
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")
CALLERS = 4
POLICY = Policy(steps=(20, 100), step_s=0.5, calls_min=20, hold_max_s=60, slower_ms=10_000)


@dataclass(slots=True)
class Two:
    """An edge before a blue and a green replica of inference."""

    stack: Stack
    token: str
    blue: Replica
    green: Replica
    failures: list[str] = field(default_factory=list)
    call_count: int = 0

    @property
    def place(self) -> Place:
        return Place(folder=self.stack.folder, admin=self.stack.admin_url, say=lambda _: None)

    async def keep_calling(self, path: str) -> None:
        while True:
            try:
                await self.stack.unary(path)(b"hi", metadata=bearer(self.token), timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{path} {error.code()} {error.details()}")
            self.call_count += 1

    async def roll(self, to: str, policy: Policy = POLICY) -> Record:
        return await asyncio.to_thread(Driver(self.place, "inference", to, policy).run)

    def weights(self) -> dict[str, int]:
        return {name: one.weight for name, one in endpoints.read(self.stack.folder, "inference").items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(module_database: Database) -> AsyncIterator[Two]:
    async with AsyncExitStack() as opened:
        auth = await opened.enter_async_context(auth_app.serving(auth_app.config(module_database("auth"))))
        blue = await opened.enter_async_context(replica())
        green = await opened.enter_async_context(replica())
        env = edge_app.settings(auth.port, {"inference": (blue.port,)}, OLLAMESH_EDGE_DISCOVERY="files")
        stack = await opened.enter_async_context(edge_app.serving(env))
        token = await stack.token()
        await until_keys_are_known(stack, GET_FLEET, token)
        endpoints.add(stack.folder, "inference", Endpoint("127.0.0.1", green.port), to="green")
        await edge_app.until_healthy(stack, 2)
        yield Two(stack, token, blue, green)


@pytest_asyncio.fixture(loop_scope="module")
async def two(edge: Two) -> AsyncIterator[Two]:
    edge.failures.clear()
    yield edge
    for one in (edge.blue, edge.green):
        one.echo.reset()
        await one.set_ready(ready=True)
    endpoints.weigh(edge.stack.folder, "inference", green_percent=0)
    await edge_app.until_healthy(edge.stack, 2)


@asynccontextmanager
async def load(two: Two, path: str = CHAT) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(two.keep_calling(path)) for _ in range(CALLERS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_all_go_to(two: Two, color: str) -> None:
    """Envoy reads the weights when it hears that they have changed."""
    there, elsewhere = (two.green, two.blue) if color == "green" else (two.blue, two.green)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            there.echo.calls.clear()
            elsewhere.echo.calls.clear()
            while len(there.echo.calls) < 50:
                await asyncio.sleep(0.01)
            if not elsewhere.echo.calls:
                return


async def test_a_good_version_comes_in_and_goes_back_and_nobody_notices(two: Two) -> None:
    async with load(two):
        stream = two.stack.stream(CHAT)
        go_on = asyncio.Event()

        async def slowly(call: Call) -> None:
            await call.write(b"one")
            await go_on.wait()
            await call.write(b"two")

        two.blue.echo.reply = slowly
        begun = stream(b"", metadata=bearer(two.token), timeout=TIMEOUT_S)
        assert await begun.read() == b"one"
        two.blue.echo.reply = echo
        assert (await two.roll("green")).state == driver.FINISHED
        assert two.weights() == {"blue": 0, "green": 100}
        await until_all_go_to(two, "green")
        assert (await two.roll("blue", replace(POLICY, steps=(100,)))).state == driver.FINISHED
        await until_all_go_to(two, "blue")
        go_on.set()
        assert await begun.read() == b"two"  # What the old version had begun, it ended.
        assert await begun.read() == grpc.aio.EOF
    assert two.failures == []
    assert two.call_count > 100


async def fails(call: Call) -> None:
    await call.context.abort(grpc.StatusCode.UNAVAILABLE, "bad version")


async def breaks(call: Call) -> None:
    await call.context.abort(grpc.StatusCode.INTERNAL, "bad version")


async def test_a_bad_version_is_taken_back_and_only_what_it_had_failed(two: Two) -> None:
    two.green.echo.reply = breaks
    async with load(two):
        record = await two.roll("green")
        assert record.state == driver.ROLLED_BACK
        assert "calls failed" in record.why
        assert two.weights() == {"blue": 100, "green": 0}
        await until_all_go_to(two, "blue")
    # Its share of the calls, as long as it took to see: never those of the other version.
    assert set(two.failures) == {f"{CHAT} StatusCode.INTERNAL bad version"}
    assert len(two.failures) < two.call_count / 2


async def test_nobody_notices_a_bad_version_whose_refusals_can_be_tried_again(two: Two) -> None:
    two.green.echo.reply = fails
    async with load(two, GET_FLEET):
        record = await two.roll("green")
        assert record.state == driver.ROLLED_BACK
        await until_all_go_to(two, "blue")
    assert two.failures == []


async def test_a_version_that_is_not_ready_any_more_is_taken_back(two: Two) -> None:
    async with load(two):
        rolling = asyncio.create_task(two.roll("green", replace(POLICY, step_s=60)))
        async with asyncio.timeout(TIMEOUT_S):
            while not two.green.echo.calls:
                await asyncio.sleep(0.01)
        await two.green.set_ready(ready=False)
        record = await rolling
    assert (record.state, record.why) == (driver.ROLLED_BACK, "none of its replicas is healthy")
    assert two.failures == []


async def test_abort_gives_all_calls_back_and_stops_the_driver(two: Two) -> None:
    async with load(two):
        rolling = asyncio.create_task(two.roll("green", replace(POLICY, step_s=60)))
        async with asyncio.timeout(TIMEOUT_S):
            while not two.green.echo.calls:
                await asyncio.sleep(0.01)
        with pytest.raises(RolloutError, match="going on"):
            await two.roll("green")
        await asyncio.to_thread(driver.abort, two.place, "inference")
        assert two.weights() == {"blue": 100, "green": 0}
        assert (await rolling).state == driver.ABORTED
        assert two.weights() == {"blue": 100, "green": 0}
    with pytest.raises(RolloutError, match="no rollout"):
        await asyncio.to_thread(driver.abort, two.place, "inference")
    assert two.failures == []


@pytest.mark.parametrize(
    ("to", "policy", "why"),
    [("blue", POLICY, "all calls already"), ("green", replace(POLICY, steps=(50, 20)), "percentages")],
)
async def test_what_cannot_begin_changes_nothing(two: Two, to: str, policy: Policy, why: str) -> None:
    with pytest.raises(RolloutError, match=why):
        await two.roll(to, policy)
    assert two.weights() == {"blue": 100, "green": 0}


async def test_calls_are_never_sent_to_an_empty_set(two: Two) -> None:
    with pytest.raises(WeightError):
        endpoints.weigh(two.stack.folder, "agent", green_percent=5)
    with pytest.raises(RolloutError, match="no replica"):
        await asyncio.to_thread(Driver(two.place, "agent", "green", POLICY).run)
