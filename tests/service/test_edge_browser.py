"""What pages may do, in a real browser: it decides what a page may read, whatever servers say to other clients."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from ollamesh.inference.v1.fleet_pb2 import GetFleetRequest

from tests import browser as browsers
from tests.browser import Browser
from tests.service import auth_app, edge_web
from tests.service.edge_app import GET_FLEET, LOOPBACK, World, whole
from tests.service.web_page import page_server
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Reads a gRPC-Web call as a page would: bytes, exposed headers, and what the browser makes of a refusal.
CALL = """(async ([url, headers, body, credentials]) => {
  try {
    const answer = await fetch(url, {
      method: "POST", headers, body: Uint8Array.from(body), credentials, cache: "no-store",
    });
    return {
      status: answer.status,
      grpc: answer.headers.get("grpc-status"),
      details: answer.headers.get("grpc-status-details-bin"),
      server: answer.headers.get("server"),
      bytes: Array.from(new Uint8Array(await answer.arrayBuffer())),
    };
  } catch (error) {
    return { failed: error.name };
  }
})(%s)"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database: Database) -> AsyncIterator[World]:
    config = auth_app.config(module_database("auth"))
    async with whole(config, OLLAMESH_CORS_ORIGINS="http://localhost:*") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with browsers.opened() as opened:
        yield opened


async def call(
    world: World, browser: Browser, *, token: str = "", credentials: str = "same-origin"
) -> dict[str, object]:
    """Call the edge from the page on which the browser is."""
    message = list(edge_web.frame(GetFleetRequest().SerializeToString()))
    headers = {"content-type": edge_web.PROTO, "x-grpc-web": "1"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    url = world.stack.url + GET_FLEET
    found = await browser.evaluate(CALL % json.dumps([url, headers, message, credentials]))
    assert isinstance(found, dict)
    return found


async def test_a_page_of_a_configured_origin_may_call_and_read(world: World, browser: Browser) -> None:
    async with page_server() as port:
        await browser.goto(f"http://localhost:{port}/")
        answer = await call(world, browser, token=await world.stack.token())
        assert answer["status"] == 200
        assert bytes(answer["bytes"]).startswith(edge_web.frame(b""))  # type: ignore[call-overload]
        assert answer["server"] is None, "only what is listed may be read"


async def test_a_page_reads_why_it_was_refused(world: World, browser: Browser) -> None:
    async with page_server() as port:
        await browser.goto(f"http://localhost:{port}/")
        answer = await call(world, browser, token="nonsense")
        assert (answer["status"], answer["grpc"]) == (401, "16")
        assert edge_web.reason({"grpc-status-details-bin": str(answer["details"])}) == "TOKEN_INVALID"


async def test_a_page_of_another_origin_gets_nothing_even_with_a_token(
    world: World, browser: Browser
) -> None:
    token = await world.stack.token()
    before_count = world.calls()
    async with page_server() as port:
        await browser.goto(f"http://{LOOPBACK}:{port}/")
        assert await call(world, browser, token=token) == {"failed": "TypeError"}
    assert world.calls() == before_count


async def test_no_page_may_send_cookies(world: World, browser: Browser) -> None:
    """Identity is what a page holds and sends on purpose, never what a browser adds."""
    async with page_server() as port:
        await browser.goto(f"http://localhost:{port}/")
        token = await world.stack.token()
        assert await call(world, browser, token=token, credentials="include") == {"failed": "TypeError"}
