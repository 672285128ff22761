"""Batches with the typed client, through a real Envoy."""

import pytest
from ollamesh.client import CallError, Client, StaticToken, batches, chats

from tests.service.rest_app import one_fake
from tests.stack import Database


async def test_the_client_has_a_batch_done(database: Database) -> None:
    async with (
        one_fake(DATABASE_URL=database("inference")) as (rest, fake),
        Client(rest.url, StaticToken(rest.token())) as client,
        Client(rest.url, StaticToken(rest.token(org="org-2"))) as stranger,
    ):
        items = [
            batches.chat("tiny", f"say {number}", custom_id=f"id-{number}", options=chats.Options(seed=1))
            for number in range(1200)
        ]
        items.append(batches.chat("absent", "hello", custom_id="absent"))
        made = await client.create_batch(items, request_id="once", display_name="mine")
        again = await client.create_batch(items, request_id="once", display_name="mine")
        assert again.batch_id == made.batch_id
        assert (made.item_count, made.display_name, made.has_ended) == (1201, "mine", False)
        found = [result async for result in client.batch_results(made.batch_id)]
        assert [result.sequence for result in found] == list(range(1, 1202))
        by_id = {result.custom_id: result for result in found}
        assert by_id["id-7"].text == "say 7"
        assert (by_id["id-7"].finish_reason, by_id["id-7"].output_token_count) == ("stop", 2)
        error = by_id["absent"].error
        assert error is not None
        assert (error.reason, error.metadata) == ("MODEL_NOT_FOUND", {"model": "absent"})
        rest_of_it = [result async for result in client.batch_results(made.batch_id, after_sequence=1190)]
        assert [result.sequence for result in rest_of_it] == list(range(1191, 1202))
        ended = await client.batch(made.batch_id)
        assert (ended.state, ended.succeeded_count, ended.failed_count) == ("done", 1200, 1)
        assert [batch.batch_id async for batch in client.list_batches()] == [made.batch_id]
        assert (await client.cancel_batch(made.batch_id)).state == "done"
        with pytest.raises(CallError) as refusal:
            await stranger.batch(made.batch_id)
        assert refusal.value.reason == "BATCH_NOT_FOUND"
        assert len(fake.asked("/api/chat")) == 1200
