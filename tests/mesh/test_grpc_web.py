"""A browser's client, unmodified from npm, streams through the edge."""

import asyncio
import json

import pytest

from tests.mesh.edge import MODEL, Edge
from tests.mesh.web import WebClient


async def test_events_arrive_in_order_to_the_end(edge: Edge, web_client: WebClient) -> None:
    events = await web_client.chat(edge.url, MODEL, edge.token(), "chat")
    assert [event["kind"] for event in events[:1]] == ["opened"]
    assert [event["kind"] for event in events[-2:]] == ["finished", "end"]
    assert [event["sequence"] for event in events[:-1]] == list(range(1, len(events)))


async def test_tokens_arrive_while_the_model_writes(edge: Edge, web_client: WebClient) -> None:
    """Had the stream been held back until its end, the first token would come too late to stop the rest."""
    events = await web_client.chat(edge.url, MODEL, edge.token(), "stop")
    kinds = [event["kind"] for event in events]
    assert kinds.count("delta") > 0
    assert "finished" not in kinds, "the answer was complete when its first token came"
    assert events[-1]["code"] == "Canceled"


@pytest.mark.parametrize("token", ["-", "nonsense"])
async def test_without_a_token_nothing_comes(edge: Edge, web_client: WebClient, token: str) -> None:
    (error,) = await web_client.chat(edge.url, MODEL, token, "chat")
    assert (error["kind"], error["code"]) == ("error", "Unauthenticated")


async def test_errors_carry_their_details(edge: Edge, web_client: WebClient) -> None:
    (error,) = await web_client.chat(edge.url, "nope:1b", edge.token(), "chat")
    assert (error["kind"], error["code"], error["details"]) == ("error", "NotFound", 1)


async def test_leaving_frees_the_slot(edge: Edge, web_client: WebClient) -> None:
    events = await web_client.chat(edge.url, MODEL, edge.token(), "leave")
    assert json.dumps(events[-1]).count("Canceled") == 1
    async with asyncio.timeout(10):
        while await edge.busy_slot_count():
            await asyncio.sleep(0.05)
