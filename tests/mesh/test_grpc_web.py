"""A browser's client, unmodified from npm, streams through the edge."""

import asyncio
import json

import pytest

from tests.mesh.edge import MODEL, Edge
from tests.mesh.web import WebClient


async def test_tokens_arrive_one_by_one(edge: Edge, web_client: WebClient) -> None:
    events = await web_client.chat(edge.url, MODEL, edge.token(), "chat")
    assert [event["kind"] for event in events[:1]] == ["opened"]
    assert [event["kind"] for event in events[-2:]] == ["finished", "end"]
    assert [event["sequence"] for event in events[:-1]] == list(range(1, len(events)))
    deltas = [event for event in events if event["kind"] == "delta"]
    assert len({round(float(str(event["at_ms"]))) for event in deltas}) > 1, "the stream came in one piece"


@pytest.mark.parametrize("token", ["-", "nonsense"])
async def test_without_a_token_nothing_comes(edge: Edge, web_client: WebClient, token: str) -> None:
    (error,) = await web_client.chat(edge.url, MODEL, token, "chat")
    assert (error["kind"], error["code"]) == ("error", "Unauthenticated")


async def test_errors_carry_their_details(edge: Edge, web_client: WebClient) -> None:
    (error,) = await web_client.chat(edge.url, "nope:1b", edge.token(), "chat")
    assert (error["kind"], error["code"], error["details"]) == ("error", "NotFound", 1)


async def test_leaving_frees_the_slot(edge: Edge, web_client: WebClient) -> None:
    events = await web_client.chat(edge.url, MODEL, edge.token(), "cancel")
    assert json.dumps(events[-1]).count("Canceled") == 1
    async with asyncio.timeout(10):
        while await edge.busy_slot_count():
            await asyncio.sleep(0.05)
