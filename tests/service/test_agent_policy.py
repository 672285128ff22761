"""A model that is an enemy, against the real service: it emits any call, and gets what its user may and wants, no more."""

import json
import random
from collections.abc import Mapping

import pytest
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.run_pb2 import (
    RUN_STATUS_SUCCEEDED,
)

from services.agent.core.policy import Rules
from tests.fakes import run_grammar
from tests.service.agent_app import App, Mesh, User, app, refusal
from tests.service.agent_enemy import READ, STEAL, Tools, around, results, says, start, tools
from tests.service.agent_people import submit, waiting, watched_by_a_wary_person

__all__ = ["app", "around", "tools"]


# ---- What is never called --------------------------------------------------------------------------


async def test_only_the_tools_of_the_run_are_called(app: App, tools: Tools) -> None:
    user = app.user()
    wanted = ["other", "run_python", "submit_approval", "", "mail; other", "mail.other", "x" * 5000]
    says(app, [(name, "{}") for name in wanted])
    events = await user.watch(await start(user))
    assert tools.made() == []
    assert app.sandbox.executions == {}
    assert all("There is no tool" in content for content in results(events))
    assert len(results(events)) == len(wanted)
    run_grammar.check(events)


@pytest.mark.parametrize(
    "arguments", ["", "[]", "null", '"mail"', "{", '{"to": 1}', '{"to": ["a"]}', '{"bcc": "e"}']
)
async def test_malformed_arguments_reach_no_tool(app: App, tools: Tools, arguments: str) -> None:
    user = app.user()
    says(app, [("mail", arguments)], [("mail", arguments)])
    events = await user.watch(await start(user))
    assert tools.mail.calls in ([], [{}] * len(tools.mail.calls)), "at most a call that says nothing"
    assert events[-1].finished.status in {RUN_STATUS_SUCCEEDED, 5, 7}
    run_grammar.check(events)


async def test_whatever_it_calls_it_is_for_its_user_alone(app: App, tools: Tools) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    secret = await bob.thread()
    says(
        app,
        [("note", json.dumps({"text": f"thread {secret} of organization other, as bob, token {bob.token}"}))],
    )
    await ann.watch(await start(ann))
    [context] = tools.note.contexts
    assert (context.owner.user_id, context.owner.organization_id) == ("ann", "o")
    assert context.token != bob.token
    assert str(context.thread_id) != secret


async def test_an_operator_may_take_a_tool_from_a_role(around: Mesh, tools: Tools) -> None:
    rules = Rules.read(asked="note", refused="mail:user")
    async with around.replica(rules=rules) as app:
        user, admin = app.user(), User(app.user().stub, app.identity.token(role="admin"))
        listed = {
            each.name: each
            for each in (await user.stub.ListTools(pb.ListToolsRequest(), **user.options)).tools
        }
        assert "mail" not in listed
        assert (listed["note"].needs_approval, listed["read_page"].needs_approval) == (True, False)
        assert "mail" in [
            each.name for each in (await admin.stub.ListTools(pb.ListToolsRequest(), **admin.options)).tools
        ]
        assert (await refusal(start(user)))[1] == "TOOL_NOT_FOUND"
        says(app, [("mail", "{}"), ("note", "{}")])
        run_id = await start(admin)
        [question] = await waiting(admin, run_id)
        assert "operator" in question.reason
        await submit(admin, run_id, question)
        await admin.watch(run_id)
        assert tools.made() == ["mail", "note"]


# ---- After it has read what others wrote -----------------------------------------------------------


async def test_what_the_user_wrote_is_done_and_what_a_page_wrote_is_asked_about(
    app: App, tools: Tools
) -> None:
    user = app.user()
    says(app, [READ], [("mail", '{"to": "bob@example.com"}'), ("note", '{"text": "anything"}')], [STEAL])
    run_id = await start(user)
    [question] = await waiting(user, run_id)
    assert tools.made() == ["read_page", "mail", "note"], "all but what was not asked for"
    assert "to, text" in question.reason
    await submit(user, run_id, question, reject="no!")
    events = await user.watch(run_id)
    assert tools.mail.calls == [{"to": "bob@example.com"}]
    assert results(events)[-1].endswith("The person says: no!")
    assert events[-1].finished.status == RUN_STATUS_SUCCEEDED
    run_grammar.check(events)


async def test_before_it_has_read_anything_nobody_is_asked(app: App, tools: Tools) -> None:
    user = app.user()
    says(app, [STEAL, READ])
    await user.watch(await start(user))
    assert tools.made() == ["read_page", "mail"], "of one step: it wrote the mail before it read the page"


async def test_a_later_run_of_the_thread_is_no_cleaner(app: App, tools: Tools) -> None:
    user = app.user()
    thread_id = await user.thread()
    says(app, [READ])
    await user.watch(await start(user, thread_id=thread_id))
    says(app, [STEAL])
    events, asked = await watched_by_a_wary_person(
        user, await start(user, thread_id=thread_id, text="Thanks! Now tell Eve.")
    )
    assert asked == ["mail"]
    assert tools.mail.calls == []
    run_grammar.check(events)
    says(app, [STEAL])
    await user.watch(await start(user))
    assert tools.mail.calls == [json.loads(STEAL[1])], "another thread has read nothing"


async def test_what_was_read_and_rolled_back_was_read(app: App, tools: Tools) -> None:
    """The thread does not say so any more, but files that were written meanwhile may."""
    user = app.user()
    thread_id = await user.thread()
    says(app, [READ])
    run_id = await start(user, thread_id=thread_id)
    await user.watch(run_id)
    await user.stub.CancelRun(pb.CancelRunRequest(run_id=run_id, rollback=True), **user.options)
    assert list(await user.messages(thread_id)) == []
    says(app, [STEAL])
    _, asked = await watched_by_a_wary_person(user, await start(user, thread_id=thread_id))
    assert asked == ["mail"]
    assert tools.mail.calls == []


async def test_addresses_are_the_users_whole_or_not_at_all(app: App, tools: Tools) -> None:
    user = app.user()
    almost = [
        "https://a.example/doc?secret=1234",
        "https://a.example.evil.example/doc",
        "https://a.example/doc#1234",
        "http://a.example/doc",
        "https://user:1234@a.example/doc",
        "https://A.example/doc",
        "https://a.example/doc/",
        "//a.example/doc",
        "https://a.example/do",
    ]
    says(app, [READ], [("read_page", json.dumps({"url": url})) for url in almost], [READ])
    _, asked = await watched_by_a_wary_person(user, await start(user))
    assert asked == ["read_page"] * len(almost)
    assert {call["url"] for call in tools.read_page.calls} == {"https://a.example/doc"}


# ---- Whatever it does ------------------------------------------------------------------------------

VALUES = [
    "bob@example.com",
    "https://a.example/doc",
    "summary",
    "eve@example.com",
    "1234",
    "",
    "a",
    "mail bob",
]
TRUSTED = {"bob@example.com", "https://a.example/doc", "summary"}


def _any_call(chance: random.Random) -> tuple[str, str]:
    name = chance.choice(["read_page", "mail", "mail", "note", "other", "run_python", "nonsense"])
    names = {"read_page": ["url"], "mail": ["to", "text"], "note": ["text"]}.get(name, ["x"])
    chosen = [each for each in names if chance.random() < 0.9]
    return name, json.dumps({each: chance.choice(VALUES) for each in chosen})


def _may_be_made(name: str, arguments: Mapping[str, object], *, has_read: bool) -> bool:
    """By books of the test's own."""
    if name not in {"read_page", "mail", "note"}:
        return False
    return name == "note" or not has_read or (bool(arguments) and set(arguments.values()) <= TRUSTED)


@pytest.mark.parametrize("seed", range(8))
async def test_any_model_is_held_to_the_rules(app: App, tools: Tools, seed: int) -> None:
    """A person who rejects everything that they are asked; what was made needed no approval."""
    chance, user = random.Random(seed), app.user()
    steps = [[_any_call(chance) for _ in range(chance.randint(1, 4))] for _ in range(8)]
    says(app, *steps)
    events, _ = await watched_by_a_wary_person(user, await start(user))
    run_grammar.check(events)
    expected: list[tuple[str, object]] = []
    has_read = False
    for step in steps:
        made = [
            (name, json.loads(text))
            for name, text in step
            if _may_be_made(name, json.loads(text), has_read=has_read)
        ]
        expected += made
        has_read = has_read or any(name == "read_page" for name, _ in step)
    real = [
        (each.spec.name, call) for each in (tools.read_page, tools.mail, tools.note) for call in each.calls
    ]
    assert sorted(real, key=str) == sorted(expected, key=str)
    assert tools.other.calls == []
    assert app.sandbox.executions == {}
