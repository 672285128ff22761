"""What is for the mesh's services alone is not there for who comes through the edge, whatever he holds or writes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub

from services.common.grpc.client import bearer
from services.common.policy import POLICY, Access
from tests.service import auth_app, edge_web
from tests.service.auth_app import ADMIN_PASSWORD, TIMEOUT_S
from tests.service.edge_app import World, whole
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNIMPLEMENTED = "12"
INNER = [path for path, row in POLICY.items() if row.access is Access.SERVICE]


@dataclass(slots=True)
class Place:
    world: World
    admin: str

    async def served_count(self) -> int:
        """How many calls of the auth service Envoy has forwarded; all the others it answered itself."""
        async with self.world.stack.http.get(
            f"{self.world.stack.admin_url}/stats?filter=^cluster.auth.upstream_rq_total$"
        ) as answer:
            return int((await answer.text()).split()[-1])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database) -> AsyncIterator[Place]:
    # The switch for plain text is on: only the edge stands between a stranger and these methods.
    async with whole(auth_app.config(module_database("auth"))) as world:
        login = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
        stub = AuthServiceStub(world.stack.channel)
        yield Place(world, (await stub.Login(login, timeout=TIMEOUT_S)).tokens.access_token)


@pytest.mark.parametrize("path", INNER)
async def test_no_token_leads_to_it(place: Place, path: str) -> None:
    served = await place.served_count()
    for metadata in (bearer(place.admin), (), bearer("nonsense")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place.world.stack.unary(path)(b"", metadata=metadata, timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await place.served_count() == served


def spellings(path: str) -> list[str]:
    service, _, method = path[1:].partition("/")
    return [
        path, f"/{path}", f"/.{path}", f"{path}/", f"{path}?x=1", f"{path};x", f"{path}%00",
        f"/{service}/x/../{method}", f"/{service}//{method}", f"/{service}%2F{method}", f"/{service}\\{method}",
        f"/{service}/%{ord(method[0]):x}{method[1:]}", f"/{service.upper()}/{method}", f"/{service}/{method.lower()}",
    ]  # fmt: skip


@pytest.mark.parametrize("path", INNER)
async def test_no_spelling_and_no_other_protocol_leads_to_it(place: Place, path: str) -> None:
    """What is forwarded in spite of its spelling is no method, and the service says so."""
    http, headers = place.world.stack.http, {"authorization": f"Bearer {place.admin}"}
    for spelled in spellings(path):
        url = place.world.stack.url + spelled
        async with http.post(url, json={}, headers=headers) as answer:
            assert answer.status in {400, 404, 503}, spelled
        async with edge_web.call(http, url, headers=headers) as call:
            if call.answer.status not in {400, 404}:
                assert (await call.trailers())["grpc-status"] == UNIMPLEMENTED, spelled


async def test_what_is_served_to_others_still_is(place: Place) -> None:
    served = await place.served_count()
    stub = AuthServiceStub(place.world.stack.channel)
    await stub.GetCaller(pb.GetCallerRequest(), metadata=bearer(place.admin), timeout=TIMEOUT_S)
    assert await place.served_count() == served + 1
