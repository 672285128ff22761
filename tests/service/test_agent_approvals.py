"""Calls that wait for a person, against the real service: what a decision is good for, and what it is not."""

import json

import asyncpg
import grpc
import pytest
from ollamesh.agent.v1.assistant_pb2 import PII_ACTION_REDACT, PII_KIND_EMAIL
from ollamesh.agent.v1.run_pb2 import (
    APPROVAL_DECISION_APPROVED,
    APPROVAL_DECISION_EDITED,
    APPROVAL_DECISION_EXPIRED,
    APPROVAL_DECISION_REJECTED,
    RUN_STATUS_CANCELLED,
    RUN_STATUS_INTERRUPTED,
    RUN_STATUS_SUCCEEDED,
)

from tests.fakes import run_grammar
from tests.service.agent_app import App, Mesh, app, refusal
from tests.service.agent_enemy import READ, STEAL, Tools, around, config, results, says, start, tools
from tests.service.agent_people import submit, waiting
from tests.stack import Database

__all__ = ["app", "around", "tools"]


async def test_an_approved_call_is_made_once_and_as_it_was_asked(app: App, tools: Tools) -> None:
    user = app.user()
    says(app, [READ], [STEAL])
    run_id = await start(user)
    [question] = await waiting(user, run_id)
    for _ in range(3):
        run = await submit(user, run_id, question)
        assert not run.pending_approvals
    events = await user.watch(run_id)
    assert tools.mail.calls == [json.loads(STEAL[1])]
    resolved = [event.approval_resolved for event in events if event.HasField("approval_resolved")]
    assert [(each.decision, each.user_id) for each in resolved] == [(APPROVAL_DECISION_APPROVED, "ann")]
    run_grammar.check(events)


async def test_an_approval_is_good_for_no_other_call(app: App, tools: Tools) -> None:
    """The same call again, another one, another run's: each is asked about anew, by its own name and hash."""
    user = app.user()
    says(app, [READ], [STEAL], [STEAL])
    run_id = await start(user)
    [first] = await waiting(user, run_id)
    await submit(user, run_id, first)
    [second] = await waiting(user, run_id)
    assert (second.call_hash, second.approval_id == first.approval_id) == (first.call_hash, False)
    await submit(user, run_id, first)  # A replay: it changes nothing.
    assert [each.approval_id for each in await waiting(user, run_id)] == [second.approval_id]
    says(app, [READ], [STEAL])
    other_id = await start(user)
    [elsewhere] = await waiting(user, other_id)
    for replayed, run in ((first, other_id), (second, other_id), (elsewhere, run_id)):
        assert (await refusal(submit(user, run, replayed)))[:2] == (
            grpc.StatusCode.NOT_FOUND,
            "APPROVAL_NOT_FOUND",
        )
    await submit(user, run_id, second, reject="once is enough")
    await user.watch(run_id)
    assert len(tools.mail.calls) == 1
    await user.cancel(other_id)


async def test_a_hash_that_was_edited_approves_nothing(app: App, tools: Tools) -> None:
    user = app.user()
    says(app, [READ], [STEAL])
    run_id = await start(user)
    [question] = await waiting(user, run_id)
    flipped = bytes([question.call_hash[0] ^ 1]) + question.call_hash[1:]
    for wrong in (flipped, bytes(32), question.call_hash[::-1]):
        refused = await refusal(submit(user, run_id, question, call_hash=wrong))
        assert refused[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "APPROVAL_MISMATCH")
    assert (await user.run(run_id)).status == RUN_STATUS_INTERRUPTED
    assert tools.mail.calls == []
    await user.cancel(run_id)


@pytest.mark.parametrize(("name", "org"), [("bob", "o"), ("ann", "other")])
async def test_to_others_there_is_nothing_to_decide(app: App, tools: Tools, name: str, org: str) -> None:
    ann, stranger = app.user("ann", org="o"), app.user(name, org=org)
    says(app, [READ], [STEAL])
    run_id = await start(ann)
    [question] = await waiting(ann, run_id)
    assert (await refusal(submit(stranger, run_id, question)))[:2] == (
        grpc.StatusCode.NOT_FOUND,
        "RUN_NOT_FOUND",
    )
    assert tools.mail.calls == []
    await ann.cancel(run_id)


async def test_an_edited_call_is_made_with_the_persons_arguments_and_told_so(app: App, tools: Tools) -> None:
    user = app.user()
    says(app, [READ], [STEAL])
    run_id = await start(user)
    [question] = await waiting(user, run_id)
    for wrong in ("[]", "{", '{"to": 1}', '{"bcc": "eve@example.com"}'):
        assert (await refusal(submit(user, run_id, question, edit=wrong)))[1] == "INVALID_REQUEST"
    await submit(user, run_id, question, edit='{"to": "carl@example.com"}')
    events = await user.watch(run_id)
    assert tools.mail.calls == [{"to": "carl@example.com"}]
    [resolved] = [event.approval_resolved for event in events if event.HasField("approval_resolved")]
    assert resolved.decision == APPROVAL_DECISION_EDITED
    assert json.loads(resolved.arguments_json) == {"to": "carl@example.com"}
    assert "carl@example.com" in results(events)[-1], "the model is told what was done in its name"
    assert (await refusal(submit(user, run_id, question)))[1] == "APPROVAL_NOT_FOUND"


async def test_what_a_person_says_to_a_run_keeps_its_rules_about_personal_data(
    app: App, tools: Tools, module_database: Database
) -> None:
    user, using = app.user(), config()
    using.pii_rules.add(kind=PII_KIND_EMAIL, action=PII_ACTION_REDACT)
    says(app, [READ], [STEAL])
    run_id = await start(user, using=using)
    [question] = await waiting(user, run_id)
    changed = submit(user, run_id, question, edit='{"to": "carl@example.com"}')
    assert (await refusal(changed))[1] == "INVALID_REQUEST", "it would be called with something else"
    await submit(user, run_id, question, reject="ask carl@example.com")
    events = await user.watch(run_id)
    assert tools.mail.calls == []
    assert "ask [EMAIL]" in results(events)[-1]
    connection = await asyncpg.connect(module_database.system("agent"))
    try:
        kept = await connection.fetchval("SELECT reason FROM approvals WHERE run_id = $1::text::uuid", run_id)
    finally:
        await connection.close()
    assert kept == b"ask [EMAIL]"


async def test_a_question_lapses_and_the_call_with_it(app: App, tools: Tools) -> None:
    user = app.user()
    using = config()
    using.limits.approval_wait.seconds = 1
    says(app, [READ], [STEAL])
    run_id = await start(user, using=using)
    events = await user.watch(run_id)
    [resolved] = [event.approval_resolved for event in events if event.HasField("approval_resolved")]
    assert (resolved.decision, resolved.user_id) == (APPROVAL_DECISION_EXPIRED, "")
    assert tools.mail.calls == []
    [question] = [event.approval_requested for event in events if event.HasField("approval_requested")]
    assert (await refusal(submit(user, run_id, question)))[1] == "APPROVAL_NOT_FOUND"
    assert events[-1].finished.status == RUN_STATUS_SUCCEEDED


async def test_a_run_that_is_cancelled_while_it_waits_calls_nothing(app: App, tools: Tools) -> None:
    user = app.user()
    says(app, [READ], [STEAL])
    run_id = await start(user)
    [question] = await waiting(user, run_id)
    assert (await user.cancel(run_id)).status == RUN_STATUS_CANCELLED
    assert (await refusal(submit(user, run_id, question)))[1] == "APPROVAL_NOT_FOUND"
    assert tools.mail.calls == []
    run_grammar.check(await user.watch(run_id))


async def test_several_calls_of_a_step_are_decided_one_by_one_while_the_others_are_made(
    app: App, tools: Tools
) -> None:
    user = app.user()
    mails = [("mail", json.dumps({"to": f"{n}@example.com"})) for n in range(3)]
    says(app, [READ], [*mails, ("note", '{"text": "x"}')])
    run_id = await start(user)
    questions = {each.tool_call_id: each for each in await waiting(user, run_id)}
    assert list(questions) == ["call_2_0", "call_2_1", "call_2_2"]
    assert tools.note.calls == [{"text": "x"}]
    await submit(user, run_id, questions["call_2_1"])
    await submit(user, run_id, questions["call_2_0"], reject="")
    await submit(user, run_id, questions["call_2_2"], edit='{"to": "2@example.org"}')
    events = await user.watch(run_id)
    assert sorted(str(call["to"]) for call in tools.mail.calls) == ["1@example.com", "2@example.org"]
    assert tools.note.calls == [{"text": "x"}], "what was done is not done again"
    decisions = [event.approval_resolved.decision for event in events if event.HasField("approval_resolved")]
    assert sorted(decisions) == [
        APPROVAL_DECISION_APPROVED,
        APPROVAL_DECISION_EDITED,
        APPROVAL_DECISION_REJECTED,
    ]
    run_grammar.check(events)


async def test_any_replica_asks_decides_and_goes_on_the_same(around: Mesh, tools: Tools) -> None:
    async with around.replica() as first:
        user = first.user()
        says(first, [READ], [STEAL], [STEAL])
        run_id = await start(user)
        [question] = await waiting(user, run_id)
    async with around.replica() as other:
        user = other.user()
        assert list(await waiting(user, run_id)) == [question]
        await submit(user, run_id, question)
        [again] = await waiting(user, run_id)
        assert again.call_hash == question.call_hash, "it still knows what the model has read"
        await submit(user, run_id, again, reject="")
        events = await user.watch(run_id)
    assert len(tools.mail.calls) == 1
    assert len(tools.read_page.calls) == 1
    run_grammar.check(events)


async def test_a_run_may_ask_about_every_call(app: App, tools: Tools) -> None:
    user = app.user()
    says(app, [("note", '{"text": "a"}')])
    run_id = await start(user, using=config("note"))
    [question] = await waiting(user, run_id)
    assert "this run asks" in question.reason
    await submit(user, run_id, question)
    await user.watch(run_id)
    assert tools.note.calls == [{"text": "a"}]


async def test_decisions_are_told_to_the_audit_log_without_the_arguments(app: App, tools: Tools) -> None:
    user = app.user()
    says(app, [READ], [STEAL], [STEAL])
    run_id = await start(user)
    for reject in (None, "no"):
        [question] = await waiting(user, run_id)
        await submit(user, run_id, question, reject=reject)
    await user.watch(run_id)
    told = [event for event in app.identity.audited if event.object == f"run/{run_id}"]
    assert [event.details["decision"] for event in told] == ["approved", "rejected"]
    assert {event.details["tool"] for event in told} == {"mail"}
    assert all("eve@" not in str(event) for event in told)
