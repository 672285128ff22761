"""Personal data in runs: whatever way it goes, it is neither told nor stored nor given to models and tools."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest
from ollamesh.agent.v1.agent_service_pb2 import WatchRunRequest
from ollamesh.agent.v1.assistant_pb2 import (
    PII_ACTION_BLOCK,
    PII_ACTION_MASK,
    PII_ACTION_REDACT,
    PII_KIND_CREDIT_CARD,
    PII_KIND_EMAIL,
    PiiAction,
    PiiKind,
    PiiRule,
    RunConfig,
)
from ollamesh.agent.v1.error_reason_pb2 import ERROR_REASON_PII_BLOCKED
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_FAILED, RUN_STATUS_SUCCEEDED, RunEvent

from tests.fakes import run_grammar
from tests.fakes.fake_inference import Reply
from tests.fakes.fake_sandbox import Execution
from tests.service.agent_app import App, User, mesh, refusal
from tests.stack import Database

MAIL, CARD = "ann@example.org", "4111 1111 1111 1111"


@pytest.fixture
async def app(database: Database) -> AsyncIterator[App]:
    async with mesh(database("agent")) as around, around.replica() as made:
        yield made


def config(
    action: PiiAction = PII_ACTION_REDACT, *kinds: PiiKind, tools: tuple[str, ...] = ("run_python",)
) -> RunConfig:
    rules = [PiiRule(kind=kind, action=action) for kind in kinds or (PII_KIND_EMAIL, PII_KIND_CREDIT_CARD)]
    return RunConfig(model="tiny", tools=tools, pii_rules=rules)


async def ended(user: User, thread_id: str, text: str, made: RunConfig) -> list[RunEvent]:
    events = await user.watch((await user.start(thread_id, text, config=made)).run_id)
    run_grammar.check(events)
    return events


async def stored(database: Database) -> bytes:
    """Everything of the agent's that is legible."""
    connection = await asyncpg.connect(database.system("agent"))
    try:
        tables = ("runs", "messages", "run_events", "threads", "checkpoints", "checkpoint_writes")
        rows = [await connection.fetch(f"SELECT t::text FROM {table} t") for table in tables]
    finally:
        await connection.close()
    text = "".join(str(row[0]) for table in rows for row in table)
    hexadecimal = [bytes.fromhex(part[:-1] if len(part) % 2 else part) for part in _hex_runs(text)]
    return text.encode() + b"".join(hexadecimal)


def _hex_runs(text: str) -> list[str]:
    """What PostgreSQL shows of binary columns."""
    parts = text.split("\\\\x")[1:]
    return ["".join(iter_hex(part)) for part in parts]


def iter_hex(text: str) -> str:
    end = next((place for place, char in enumerate(text) if char not in "0123456789abcdef"), len(text))
    return text[:end]


async def test_what_it_reads_and_writes_is_redacted_everywhere(app: App, database: Database) -> None:
    app.inference.script = [
        Reply(
            thinking=f"Hm, {MAIL}.",
            texts=["Mail a", "nn@exam", "ple.org, pay 4111 11", "11 1111 1111", " then."],
            calls=[("run_python", f'{{"code": "print(\'{MAIL}\')"}}')],
        ),
        Reply(texts=[f"Done: {MAIL}"]),
    ]
    app.sandbox.script = [Execution(stdout=[b"to ann@", b"example.org\n", b"4111 1111 ", b"1111 1111"])]
    user = app.user()
    thread_id = await user.thread()
    events = await ended(user, thread_id, f"Write to {MAIL}", config())
    assert events[-1].finished.answer == "Done: [EMAIL]"
    read = "".join(str(asked.request) for asked in app.inference.asked)
    kept = await stored(database)
    assert b"[EMAIL]" in kept, "what is looked at is what is stored"
    for secret in (MAIL, CARD, "4111 "):
        assert secret not in str(events)
        assert secret not in str(await user.messages(thread_id))
        assert secret not in read
        assert secret not in str(app.sandbox.specs)
        assert secret.encode() not in kept
    text = "".join(event.delta.text for event in events)
    assert text == "Mail [EMAIL], pay [CREDIT_CARD] then.Done: [EMAIL]"
    assert "".join(event.delta.thinking for event in events) == "Hm, [EMAIL]."
    outputs = "".join(event.tool_output.text for event in events)
    assert outputs.startswith("to [EMAIL]\n[CREDIT_CARD]")


async def test_masks_leave_the_end(app: App) -> None:
    app.inference.script = [Reply(texts=[f"{CARD}!"])]
    user = app.user()
    events = await ended(user, await user.thread(), "?", config(PII_ACTION_MASK))
    assert events[-1].finished.answer == "****1111!"


async def test_an_input_that_holds_what_is_blocked_is_refused(app: App) -> None:
    user = app.user()
    thread_id = await user.thread()
    blocking = config(PII_ACTION_BLOCK, PII_KIND_EMAIL)
    assert await refusal(user.start(thread_id, f"Write to {MAIL}", config=blocking)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PII_BLOCKED",
        {"kind": "EMAIL"},
    )
    assert not await user.messages(thread_id)


async def test_a_run_whose_model_or_tool_writes_what_is_blocked_ends(app: App) -> None:
    blocking = config(PII_ACTION_BLOCK, PII_KIND_EMAIL)
    call = Reply(calls=[("run_python", '{"code": "1"}')])
    app.sandbox.otherwise = Execution(stdout=[MAIL.encode()])
    user = app.user()
    for script in ([Reply(texts=["to ", MAIL, " now"])], [Reply(thinking=MAIL)], [call]):
        app.inference.script = list(script)
        thread_id = await user.thread()
        events = await ended(user, thread_id, "?", blocking)
        finished = events[-1].finished
        assert (finished.status, finished.failure_reason) == (RUN_STATUS_FAILED, ERROR_REASON_PII_BLOCKED)
        assert finished.failure_message.endswith(": EMAIL")
        assert MAIL not in str(events) + str(await user.messages(thread_id))


async def test_so_does_one_that_reads_it_from_its_thread(app: App) -> None:
    user = app.user()
    thread_id = await user.thread()
    await ended(user, thread_id, f"I am {MAIL}", RunConfig(model="tiny"))
    finished = (await ended(user, thread_id, "Who am I?", config(PII_ACTION_BLOCK)))[-1].finished
    assert finished.failure_reason == ERROR_REASON_PII_BLOCKED
    assert (await ended(user, thread_id, "Who?", config()))[-1].finished.status == RUN_STATUS_SUCCEEDED
    assert MAIL not in str(app.inference.asked[-1].request)
    assert "I am [EMAIL]" in str(app.inference.asked[-1].request)


async def test_whoever_takes_over_tells_on_from_what_was_told(database: Database) -> None:
    """What was held back is neither lost nor told twice, though the text now comes in other pieces."""
    hold = asyncio.Event()
    async with mesh(database("agent")) as around:
        around.inference.script = [
            Reply(texts=["Mail a", "nn@exam", "ple"], hold=hold),
            Reply(texts=["Mail ann", "@example.org", " now"]),
        ]
        async with around.replica() as other:
            async with around.replica() as first:
                run = await first.user().start(await first.user().thread(), "?", config=config())
                async for response in first.user().stub.WatchRun(
                    WatchRunRequest(run_id=run.run_id), **first.user().options
                ):
                    if response.event.delta.text:
                        break
            events = await other.user().watch(run.run_id)
    run_grammar.check(events)
    assert "".join(event.delta.text for event in events) == "Mail [EMAIL] now"
    assert not any(event.HasField("step_restarted") for event in events)
    assert events[-1].finished.answer == "Mail [EMAIL] now"
