"""Batches, through gRPC and to fake Ollamas, over a real PostgreSQL."""

import asyncio
from collections import Counter
from uuid import UUID, uuid5

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.inference.v1 import batch_pb2 as pb
from ollamesh.inference.v1 import completion_pb2

from services.common.grpc.client import held
from tests.contract.batch_store import fetch
from tests.fakes.fake_ollama import Cut, FakeOllama, Hang, fake_model
from tests.service.inference_app import (
    PROCESSES,
    TINY,
    asked,
    left,
    one_instance,
    preload,
    refused,
    serving,
    until_event,
)
from tests.service.inference_batches import (
    chat_item,
    create,
    creating,
    facts,
    generate_item,
    get,
    next_result,
    parts,
    reason,
    results,
    until_batch,
)
from tests.stack import Database

# How many work is counted there, or the service's objects are reached into.
of_one_process = pytest.mark.skipif(PROCESSES > 1, reason="needs the service in one process")


def settings(database: Database, **more: object) -> dict[str, object]:
    return {"DATABASE_URL": database("inference"), "batch_sweep_every_s": 0.1, **more}


async def test_every_item_is_answered_once_and_told_in_order(database: Database) -> None:
    async with one_instance(**settings(database)) as (service, fake):
        items = [chat_item(f"say {number}", custom_id=f"id-{number}") for number in range(20)]
        items.append(generate_item("go on", custom_id="other"))
        made = await create(service, items, display_name="mine")
        assert (made.item_count, made.display_name) == (21, "mine")
        assert made.state in {pb.BATCH_STATE_PENDING, pb.BATCH_STATE_RUNNING}
        found = await results(service, made.batch_id)
        assert [result.sequence for result in found] == list(range(1, 22))
        assert sorted(result.item_index for result in found) == list(range(21))
        by_id = {result.custom_id: result.answer for result in found}
        assert by_id["id-7"].message.role == completion_pb2.ROLE_ASSISTANT
        assert by_id["id-7"].message.content
        assert by_id["id-7"].finish_reason == completion_pb2.FINISH_REASON_STOP
        assert by_id["id-7"].usage.output_token_count > 0
        assert by_id["id-7"].model == "tiny:latest"
        assert by_id["other"].message.content
        ended = await get(service, made.batch_id)
        assert (ended.state, ended.succeeded_count, ended.failed_count) == (pb.BATCH_STATE_DONE, 21, 0)
        assert ended.create_time.ToDatetime() <= ended.start_time.ToDatetime() <= ended.end_time.ToDatetime()
        assert len(fake.asked("/api/chat")) == 20


async def test_results_go_on_after_any_sequence_and_on_any_replica(database: Database) -> None:
    async with (
        one_instance(**settings(database)) as (service, fake),
        serving(fake.url, **settings(database)) as other,
    ):
        made = await create(service, [chat_item(f"say {number}") for number in range(9)])
        whole = await results(service, made.batch_id)
        for after in range(10):
            assert await results(other, made.batch_id, after=after) == whole[after:]


async def test_bad_items_are_named_and_nothing_is_accepted(database: Database) -> None:
    async with one_instance(**settings(database)) as (service, fake):
        good = chat_item()
        cases = [
            ([good] * 3 + [chat_item(model="../x")], "items[3].chat.model"),
            ([good, generate_item("x", options=completion_pb2.Options(temperature=1.5))],
             "items[1].generate.options.temperature"),
            ([good] * 7 + [chat_item("x" * 10_001)], "items[7].chat.messages[0].content"),
            ([good, pb.BatchItem(custom_id="x")], "items[1].request"),
            ([good, chat_item(custom_id="x" * 257)], "items[1].custom_id"),
            ([good, chat_item(top_logprobs=2)], "items[1].chat.top_logprobs"),
        ]  # fmt: skip
        for items, field in cases:
            refusal = await refused(creating(service, parts(items, at_once=2)))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert refusal.fields == [field]
        listed = await service.call("ListBatches", pb.ListBatchesRequest())
        assert list(listed.batches) == []
        assert fake.asked("/api/chat") == []


async def test_the_grammar_of_a_batch_is_kept(database: Database) -> None:
    header = pb.CreateBatchRequest(header=pb.CreateBatchRequest.Header())
    items = pb.CreateBatchRequest(items=pb.CreateBatchRequest.Items(items=[chat_item()]))
    async with one_instance(**settings(database, batch_bytes_max=4000)) as (service, _):
        for stream, field in (
            ([], "header"),
            ([items], "header"),
            ([header, header], "header"),
            ([header], "items"),
            ([header, *[items] * 400], "items"),
        ):
            refusal = await refused(creating(service, stream))
            assert (refusal.reason, refusal.fields) == ("INVALID_REQUEST", [field])


@of_one_process
async def test_more_items_than_a_batch_may_have_are_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.inference.batches.intake.ITEMS_MAX", 5)
    async with one_instance(**settings(database)) as (service, _):
        await create(service, [chat_item()] * 5)
        refusal = await refused(creating(service, parts([chat_item()] * 6, at_once=4)))
        assert (refusal.reason, refusal.fields) == ("INVALID_REQUEST", ["items"])


async def test_the_same_request_twenty_times_makes_one_batch(database: Database) -> None:
    """R10."""
    async with one_instance(**settings(database)) as (service, fake):
        items = [chat_item(f"say {number}") for number in range(30)]
        calls = [
            creating(service, parts(items, at_once=1 + number, request_id="once")) for number in range(20)
        ]
        made = [response.batch.batch_id for response in await asyncio.gather(*calls)]
        assert len(set(made)) == 1
        changed = parts([*items, chat_item()], request_id="once")
        refusal = await refused(creating(service, changed))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert len(await results(service, made[0])) == 30
        assert len(fake.asked("/api/chat")) == 30


async def test_to_others_a_batch_does_not_exist(database: Database) -> None:
    async with one_instance(**settings(database)) as (service, _):
        made = await create(service, [chat_item()])
        for org, user_id in (("org-2", "user-1"), ("org-1", "user-2")):
            for method, request in (
                ("GetBatch", pb.GetBatchRequest(batch_id=made.batch_id)),
                ("CancelBatch", pb.CancelBatchRequest(batch_id=made.batch_id)),
                ("StreamBatchResults", pb.StreamBatchResultsRequest(batch_id=made.batch_id)),
            ):
                refusal = await refused(service.call(method, request, org=org, user_id=user_id))
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "BATCH_NOT_FOUND")
            listed = await service.call("ListBatches", pb.ListBatchesRequest(), org=org, user_id=user_id)
            assert list(listed.batches) == []
        refusal = await refused(service.call("GetBatch", pb.GetBatchRequest(batch_id="no-uuid")))
        assert refusal.reason == "BATCH_NOT_FOUND"


async def test_batches_are_listed_newest_first_in_pages(database: Database) -> None:
    async with one_instance(**settings(database)) as (service, _):
        made = [(await create(service, [chat_item()])).batch_id for _ in range(5)]
        found: list[str] = []
        token = ""
        while True:
            request = pb.ListBatchesRequest(page_size=2, page_token=token)
            page = await service.call("ListBatches", request)
            found += [batch.batch_id for batch in page.batches]
            if not (token := page.next_page_token):
                break
        assert found == made[::-1]
        refusal = await refused(service.call("ListBatches", pb.ListBatchesRequest(page_token="eA==")))
        assert refusal.fields == ["page_token"]


async def test_what_an_item_does_wrong_is_its_result_and_others_go_on(database: Database) -> None:
    async with one_instance(**settings(database)) as (service, _):
        items = [chat_item(), chat_item(model="absent"), chat_item("again")]
        found = await results(service, (await create(service, items)).batch_id)
        assert {result.item_index: reason(result) for result in found} == {0: "", 1: "MODEL_NOT_FOUND", 2: ""}
        (failed,) = (result for result in found if result.item_index == 1)
        assert failed.error.code == grpc.StatusCode.NOT_FOUND.value[0]


@of_one_process
@pytest.mark.timed
async def test_cancelling_ends_what_runs_within_a_second_on_any_replica(database: Database) -> None:
    async with (
        one_instance(**settings(database, batch_workers=2)) as (service, fake),
        serving(fake.url, **settings(database, batch_workers=0)) as other,
    ):
        fake.script("done")
        for _ in range(2):
            fake.script("a", Hang())
        made = await create(service, [chat_item(f"say {number}") for number in range(9)])
        running = [await asked(fake, 2), await asked(fake, 3)]
        response = await other.call("CancelBatch", pb.CancelBatchRequest(batch_id=made.batch_id))
        async with asyncio.timeout(1):
            assert all([await left(request) for request in running])
        assert response.batch.state == pb.BATCH_STATE_CANCELLED
        assert [result.answer.message.content for result in await results(service, made.batch_id)] == ["done"]
        again = await service.call("CancelBatch", pb.CancelBatchRequest(batch_id=made.batch_id))
        assert again.batch == response.batch
        await service.until_idle()
        assert len(fake.asked("/api/chat")) == 3, "nothing more was begun"


async def test_results_are_told_while_the_batch_goes_on(database: Database) -> None:
    async with one_instance(**settings(database, batch_workers=1)) as (service, fake):
        gate = asyncio.Event()
        fake.script("first")
        fake.script(gate, "second")
        made = await create(service, [chat_item(), chat_item()])
        call = service.call("StreamBatchResults", pb.StreamBatchResultsRequest(batch_id=made.batch_id))
        with held(call):
            assert (await next_result(call)).answer.message.content == "first"
            assert (await get(service, made.batch_id)).succeeded_count == 1
            gate.set()
            assert (await next_result(call)).answer.message.content == "second"
            assert await call.read() is grpc.aio.EOF


async def test_a_deadly_item_is_given_up_after_three_attempts(database: Database) -> None:
    """R15, of what kills instances. What kills workers is in test_inference_batches_die.py."""
    async with one_instance(**settings(database, batch_workers=1)) as (service, fake):
        for _ in range(3):
            fake.script("a", Cut())
        (poisoned,) = await results(service, (await create(service, [chat_item("deadly")])).batch_id)
        assert reason(poisoned) == "ITEM_POISONED"
        assert facts(poisoned) == {"attempt_count": "3", "last_reason": "INSTANCE_LOST"}
        (fine,) = await results(service, (await create(service, [chat_item("fine")])).batch_id)
        assert reason(fine) == ""


async def test_items_outlive_an_outage_of_the_fleet(database: Database) -> None:
    async with one_instance(**settings(database, batch_workers=2)) as (service, fake):
        await fake.refuse()
        await service.until_ready(0)
        made = await create(service, [chat_item(f"say {number}") for number in range(6)])
        await asyncio.sleep(1.5)  # Long enough for refusals; whether any comes changes nothing below.
        await fake.accept()
        found = await results(service, made.batch_id)
        assert Counter(map(reason, found)) == {"": 6}


async def test_a_model_that_only_an_instance_has_that_was_not_seen_yet_is_waited_for(
    database: Database,
) -> None:
    async with FakeOllama(TINY) as one, FakeOllama(fake_model("other:latest", "completion")) as away:
        await away.refuse()
        hosts = f"{one.url},{away.url}"
        async with serving(one.url, OLLAMA_HOSTS=hosts, **settings(database)) as service:
            made = await create(service, [chat_item(model="other"), chat_item()])
            await asyncio.sleep(1.0)  # Long enough to be tried; whether it was changes nothing below.
            await away.accept()
            found = await results(service, made.batch_id)
            assert Counter(map(reason, found)) == {"": 2}
            made = await create(service, [chat_item(model="none")])
            assert list(map(reason, await results(service, made.batch_id))) == ["MODEL_NOT_FOUND"]


async def test_what_is_asked_now_goes_before_what_may_wait(database: Database) -> None:
    async with one_instance(**settings(database, batch_workers=3, instance_slots=1)) as (service, fake):
        gate = asyncio.Event()
        fake.script(gate, "held")
        made = await create(service, [chat_item(f"batch {number}") for number in range(5)])
        await asked(fake)
        call = service.chat("urgent")
        await until_event(call, "queued")
        gate.set()
        await until_event(call, "finished")
        await until_batch(service, made.batch_id)
        assert "urgent" in str(fake.asked("/api/chat")[1].body)


async def test_each_item_is_charged_once_and_with_its_result(database: Database) -> None:
    async with one_instance(**settings(database)) as (service, _):
        items = [chat_item("one two three"), chat_item(model="absent"), generate_item("four five")]
        made = await create(service, items)
        found = await results(service, made.batch_id)
        rows = await fetch(
            database("inference"),
            "SELECT * FROM usage_entries ORDER BY operation",
        )
        assert [row["operation"] for row in rows] == ["chat", "text_completion"]
        assert {row["entry_id"] for row in rows} == {
            uuid5(UUID(made.batch_id), str(index)) for index in (0, 2)
        }
        used = sum(result.answer.usage.output_token_count for result in found)
        assert sum(row["output_token_count"] for row in rows) == used
        assert {(row["organization_id"], row["user_id"]) for row in rows} == {("org-1", "user-1")}


@of_one_process
async def test_what_is_not_done_in_time_fails_and_what_expires_is_gone(database: Database) -> None:
    async with one_instance(**settings(database, batch_workers=1)) as (service, fake):
        fake.script("done")
        fake.script("a", Hang())
        made = await create(
            service,
            [chat_item(f"say {number}") for number in range(4)],
            completion_window=Duration(seconds=2),
            retention=Duration(seconds=4),
        )
        found = await results(service, made.batch_id)
        assert Counter(map(reason, found)) == {"": 1, "BATCH_EXPIRED": 3}
        assert (await get(service, made.batch_id)).state == pb.BATCH_STATE_DONE
        assert await left(await asked(fake, 2))
        async with asyncio.timeout(10):
            while await fetch(database("inference"), "SELECT 1 FROM batches"):
                await asyncio.sleep(0.1)
        refusal = await refused(service.call("GetBatch", pb.GetBatchRequest(batch_id=made.batch_id)))
        assert refusal.reason == "BATCH_NOT_FOUND"


async def test_a_replica_that_ends_hands_over_what_it_had(database: Database) -> None:
    async with FakeOllama(TINY, parallel=64) as fake:
        await preload(fake, TINY)
        for _ in range(3):
            fake.script("a", Hang())
        async with serving(fake.url, **settings(database, batch_workers=3)) as service:
            made = await create(service, [chat_item(f"say {number}") for number in range(5)])
            await asked(fake, 3)
        rows = await fetch(database("inference"), "SELECT attempt_count FROM batch_items")
        assert [row["attempt_count"] for row in rows] == [0] * 5, "none of them is to blame"
        async with serving(fake.url, **settings(database)) as service:
            assert len(await results(service, made.batch_id)) == 5


async def test_no_database_is_said() -> None:
    async with one_instance() as (service, _):
        refusal = await refused(service.call("GetBatch", pb.GetBatchRequest(batch_id="x")))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
