"""A run, from its question to its answer, over a real socket."""

import asyncio
import json

import grpc
import pytest
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1 import run_pb2, thread_pb2
from ollamesh.agent.v1.assistant_pb2 import RunConfig, RunLimits
from ollamesh.agent.v1.error_reason_pb2 import ErrorReason
from ollamesh.inference.v1 import completion_pb2
from ollamesh.sandbox.v1 import execution_pb2

from services.common.errors import Kind, MeshError
from tests.fakes import run_grammar
from tests.fakes.fake_inference import Reply
from tests.fakes.fake_sandbox import Execution
from tests.service.agent_app import App, Mesh, app, around, until

__all__ = ["app", "around"]

CODE = "print(6 * 7)"
CALL = Reply(texts=["Let me ", "see."], calls=[("run_python", json.dumps({"code": CODE}))])
ANSWER = Reply(texts=["It ", "is ", "42."])


async def test_a_run_with_a_tool_from_end_to_end(app: App) -> None:
    app.inference.script = [CALL, ANSWER]
    app.sandbox.script = [Execution(stdout=[b"4", b"2\n"], stderr=[b"warning\n"])]
    user = app.user()
    thread_id = await user.thread()
    started = await user.start(thread_id)
    assert started.status in {run_pb2.RUN_STATUS_PENDING, run_pb2.RUN_STATUS_RUNNING}

    events = await user.watch(started.run_id)
    run_grammar.check(events)
    assert [kind for kind in run_grammar.kinds_of(events) if kind != "tool_output"] == [
        "started",
        "step_started",
        "delta",
        "tool_called",
        "tool_returned",
        "step_finished",
        "step_started",
        "delta",
        "step_finished",
        "finished",
    ]
    assert run_grammar.text_of(events) == "Let me see.It is 42."
    called = next(event.tool_called.call for event in events if event.HasField("tool_called"))
    returned = next(event.tool_returned for event in events if event.HasField("tool_returned"))
    assert (called.tool_name, json.loads(called.arguments_json)) == ("run_python", {"code": CODE})
    assert (returned.content, returned.failed) == ("42\nstderr:\nwarning", False)
    output = {
        channel: "".join(event.tool_output.text for event in events if event.tool_output.channel == channel)
        for channel in (run_pb2.OUTPUT_CHANNEL_STDOUT, run_pb2.OUTPUT_CHANNEL_STDERR)
    }
    assert list(output.values()) == ["42\n", "warning\n"]

    finished = events[-1].finished
    assert (finished.status, finished.answer) == (run_pb2.RUN_STATUS_SUCCEEDED, "It is 42.")
    usage = finished.usage
    assert (usage.step_count, usage.tool_call_count, usage.prompt_token_count) == (2, 1, 20)

    ended = await user.run(started.run_id)
    assert (ended.status, ended.last_sequence) == (run_pb2.RUN_STATUS_SUCCEEDED, events[-1].sequence)
    assert ended.usage == usage
    assert ended.create_time.ToNanoseconds() <= ended.start_time.ToNanoseconds()
    assert ended.start_time.ToNanoseconds() <= ended.end_time.ToNanoseconds()

    said = await user.messages(thread_id)
    assert [(message.role, message.content) for message in said] == [
        (thread_pb2.ROLE_USER, "What is 6 * 7?"),
        (thread_pb2.ROLE_ASSISTANT, "Let me see."),
        (thread_pb2.ROLE_TOOL, "42\nstderr:\nwarning"),
        (thread_pb2.ROLE_ASSISTANT, "It is 42."),
    ]
    assert said[1].tool_calls[0] == called
    assert (said[2].tool_call_id, said[2].tool_name) == (called.tool_call_id, "run_python")
    assert {message.run_id for message in said} == {started.run_id}


async def test_model_and_tool_act_with_the_users_token_and_the_runs_configuration(app: App) -> None:
    app.inference.script = [CALL, ANSWER]
    user = app.user()
    config = RunConfig(
        model="tiny",
        tools=["run_python"],
        system_prompt="Be brief.",
        temperature=0.0,
        seed=7,
        limits=RunLimits(output_token_count_per_call=64),
    )
    config.limits.wall.FromSeconds(15)
    run = await user.start(await user.thread(), config=config)
    await user.watch(run.run_id)
    assert app.sandbox.authorizations == [f"Bearer {user.token}"]
    assert app.sandbox.specs[0].code == CODE
    first, second = app.inference.asked
    assert first.authorization == second.authorization == f"Bearer {user.token}"
    assert 10 < first.remaining_s <= 16.5, "the run's own bound is passed on"
    options = first.request.options
    assert (first.request.model, options.temperature, options.seed) == ("tiny", 0.0, 7)
    assert options.output_token_count_max == 64
    assert [tool.name for tool in first.request.tools] == ["run_python"]
    roles = [(message.role, message.content) for message in second.request.messages]
    assert roles == [
        (completion_pb2.ROLE_SYSTEM, "Be brief."),
        (completion_pb2.ROLE_USER, "What is 6 * 7?"),
        (completion_pb2.ROLE_ASSISTANT, "Let me see."),
        (completion_pb2.ROLE_TOOL, "42"),
    ]
    call, result = second.request.messages[2].tool_calls[0], second.request.messages[3]
    assert (result.tool_name, result.tool_call_id) == ("run_python", call.id)
    assert first.request.request_id != second.request.request_id
    assert first.request.conversation_id == second.request.conversation_id == run.thread_id


async def test_unset_configuration_is_filled_in_and_shown(app: App) -> None:
    user = app.user()
    run = await user.start(await user.thread(), config=RunConfig())
    await user.watch(run.run_id)
    shown = run.config
    assert (shown.model, list(shown.tools), shown.HasField("temperature")) == ("default-model", [], False)
    assert (shown.limits.step_count, shown.limits.tool_call_count) == (10, 20)
    assert (shown.limits.token_count, shown.limits.wall.seconds) == (100_000, 300)
    assert app.inference.asked[0].request.model == "default-model"
    assert not app.inference.asked[0].request.tools


async def test_a_conversation_is_remembered(app: App) -> None:
    app.inference.script = [CALL, ANSWER, Reply(texts=["84."])]
    user = app.user()
    thread_id = await user.thread()
    for text in ("What is 6 * 7?", "And twice that?"):
        await user.watch((await user.start(thread_id, text)).run_id)
    asked = app.inference.asked[-1].request.messages
    assert [message.content for message in asked] == [
        "What is 6 * 7?",
        "Let me see.",
        "42",
        "It is 42.",
        "And twice that?",
    ]
    assert asked[1].tool_calls[0].id == asked[2].tool_call_id


async def test_every_suffix_is_the_same_live_and_afterwards(app: App) -> None:
    hold = asyncio.Event()
    app.inference.script = [CALL, Reply(texts=["It ", "is ", "42."], hold=hold)]
    user = app.user()
    run = await user.start(await user.thread())
    live = [asyncio.create_task(user.watch(run.run_id, after=after)) for after in range(12)]
    await asyncio.sleep(0)
    hold.set()
    watched = await asyncio.gather(*live)
    whole = await user.watch(run.run_id)
    run_grammar.check(whole)
    for after, events in enumerate(watched):
        assert events == whole[after:]
        assert await user.watch(run.run_id, after=after) == whole[after:]
    assert await user.watch(run.run_id, after=10**9) == []


async def test_another_replica_shows_the_same(app: App, around: Mesh) -> None:
    hold = asyncio.Event()
    app.inference.script = [CALL, Reply(texts=["It ", "is ", "42."], hold=hold)]
    user = app.user()
    run = await user.start(await user.thread())
    async with around.replica() as other:
        elsewhere = asyncio.create_task(other.user().watch(run.run_id))
        here = asyncio.create_task(user.watch(run.run_id))
        hold.set()
        assert await elsewhere == await here
        run_grammar.check(await elsewhere)


async def test_a_watcher_that_does_not_read_slows_nobody(app: App) -> None:
    """More than a connection's buffers hold; the run ends while its first watcher sleeps."""
    app.inference.script = [Reply(texts=["x" * 10_000] * 100)]
    user = app.user()
    run = await user.start(await user.thread())
    request = pb.WatchRunRequest(run_id=run.run_id)
    sleeper = aiter(user.stub.WatchRun(request, **user.options))
    await anext(sleeper)
    events = await user.watch(run.run_id)
    assert run_grammar.text_of(events) == "x" * 1_000_000
    rest = [response.event async for response in sleeper]
    assert rest == events[1:]


async def test_thinking_is_told_and_not_said(app: App) -> None:
    app.inference.script = [Reply(thinking="hmm", texts=["42."])]
    user = app.user()
    thread_id = await user.thread()
    events = await user.watch((await user.start(thread_id)).run_id)
    assert "".join(event.delta.thinking for event in events) == "hmm"
    assert [message.content for message in await user.messages(thread_id)][-1] == "42."


async def test_programs_of_one_step_follow_each_other_in_the_threads_session(app: App) -> None:
    app.inference.script = [Reply(calls=[("run_python", '{"code": "1"}')] * 3), ANSWER]
    user = app.user()
    run = await user.start(await user.thread())
    events = await user.watch(run.run_id)
    run_grammar.check(events)
    assert [event.tool_returned.content for event in events if event.HasField("tool_returned")] == ["42"] * 3
    assert [spec.session_id for spec in app.sandbox.specs] == ["s1"] * 3
    assert events[-1].finished.usage.tool_call_count == 3


async def test_variables_and_files_outlive_a_run(app: App) -> None:
    app.inference.script = [
        Reply(calls=[("write_file", '{"path": "a.txt", "content": "h\u00e9"}')]),
        ANSWER,
        Reply(calls=[("read_file", '{"path": "a.txt"}'), ("run_python", '{"code": "1"}')]),
        ANSWER,
    ]
    user, config = app.user(), RunConfig(model="tiny", tools=["run_python", "read_file", "write_file"])
    thread_id = await user.thread()
    for _ in range(2):
        events = await user.watch((await user.start(thread_id, config=config)).run_id)
        run_grammar.check(events)
    contents = {event.tool_returned.content for event in events if event.HasField("tool_returned")}
    assert contents == {"hé", "42"}
    assert app.sandbox.files == {"s1": {"a.txt": "hé".encode()}}


class SandboxUnavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "SANDBOX_UNAVAILABLE"
    message = "no engine of this machine passed its self-test"


class Refused(MeshError):
    kind, reason = Kind.MISSING, "MODEL_NOT_FOUND"
    message = "no instance has the model"


@pytest.mark.parametrize(
    ("execution", "content"),
    [
        (
            Execution(failure=SandboxUnavailable()),
            f"The code was not run to its end: {SandboxUnavailable.message} (SANDBOX_UNAVAILABLE).",
        ),
        (
            Execution(failure=ValueError("/srv/secret")),
            "The code was not run to its end: it cannot be reached or did not finish in time (INTERNAL).",
        ),
        (
            Execution(stderr=[b"NameError: x\n"], outcome=execution_pb2.OUTCOME_ERROR, exit_code=1),
            "stderr:\nNameError: x\nThe program failed with exit code 1.",
        ),
        (
            Execution(
                stdout=[b"1\n"], outcome=execution_pb2.OUTCOME_TIMEOUT, message="it ran longer than 10 s"
            ),
            "1\nThe program was ended: it ran longer than 10 s.",
        ),
    ],
)
async def test_what_goes_wrong_in_a_tool_is_told_to_the_model(
    app: App, execution: Execution, content: str
) -> None:
    app.inference.script = [CALL, ANSWER]
    app.sandbox.otherwise = execution
    user = app.user()
    events = await user.watch((await user.start(await user.thread())).run_id)
    run_grammar.check(events)
    returned = next(event.tool_returned for event in events if event.HasField("tool_returned"))
    assert (returned.content, returned.failed) == (content, True)
    assert app.inference.asked[1].request.messages[-1].content == content
    assert events[-1].finished.status == run_pb2.RUN_STATUS_SUCCEEDED


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("run_python", "{"),
        ("run_python", "[1]"),
        ("run_python", '{"code": 3}'),
        ("run_python", '{"code": NaN}'),
        ("rm -rf /", "{}"),
        ("read_file", '{"path": "/etc/passwd"}'),
    ],
)
async def test_whatever_a_model_calls_it_is_told_and_goes_on(app: App, name: str, arguments: str) -> None:
    app.inference.script = [Reply(calls=[(name, arguments)]), ANSWER]
    user = app.user()
    events = await user.watch((await user.start(await user.thread())).run_id)
    run_grammar.check(events)
    called = next(event.tool_called.call for event in events if event.HasField("tool_called"))
    assert isinstance(json.loads(called.arguments_json), dict)
    assert next(event.tool_returned.failed for event in events if event.HasField("tool_returned"))
    assert app.sandbox.specs == []
    assert events[-1].finished.status == run_pb2.RUN_STATUS_SUCCEEDED


@pytest.mark.parametrize(
    ("failure", "texts", "message"),
    [
        (Refused(), [], "the model did not answer: no instance has the model (MODEL_NOT_FOUND)"),
        (Refused(), ["half"], "the model did not answer: no instance has the model (MODEL_NOT_FOUND)"),
        (
            ValueError("redis://secret"),
            ["half"],
            "the model did not answer: it cannot be reached or did not finish in time (INTERNAL)",
        ),
    ],
)
async def test_a_model_that_fails_ends_the_run_with_its_reason(
    app: App, failure: Exception, texts: list[str], message: str
) -> None:
    app.inference.script = [Reply(texts=texts, failure=failure)]
    user = app.user()
    thread_id = await user.thread()
    run = await user.start(thread_id)
    events = await user.watch(run.run_id)
    run_grammar.check(events)
    ended = await user.run(run.run_id)
    assert ended.status == events[-1].finished.status == run_pb2.RUN_STATUS_FAILED
    assert ended.failure_reason == ErrorReason.ERROR_REASON_MODEL_FAILED
    assert ended.failure_message == events[-1].finished.failure_message == message
    said = [message.content for message in await user.messages(thread_id)]
    assert said == ["What is 6 * 7?", *texts], "what was reached is kept"
    assert (await user.find_thread(thread_id)).state == thread_pb2.THREAD_STATE_ERROR


LOOPING = Reply(calls=[("run_python", '{"code": "1"}')], prompt_token_count=400, output_token_count=100)


@pytest.mark.parametrize(
    ("limits", "reply", "limit"),
    [
        (RunLimits(step_count=3), LOOPING, "step_count"),
        (RunLimits(model_call_count=2), LOOPING, "model_call_count"),
        (RunLimits(tool_call_count=2), LOOPING, "tool_call_count"),
        (RunLimits(token_count=1000), LOOPING, "token_count"),
        (
            RunLimits(output_token_count_per_call=3),
            Reply(texts=["so far"], reason=completion_pb2.FINISH_REASON_LENGTH),
            "output_token_count_per_call",
        ),
    ],
)
async def test_a_run_that_meets_a_limit_keeps_what_it_reached(
    app: App, limits: RunLimits, reply: Reply, limit: str
) -> None:
    app.inference.otherwise = reply
    user = app.user()
    thread_id = await user.thread()
    config = RunConfig(model="tiny", tools=["run_python"], limits=limits)
    events = await user.watch((await user.start(thread_id, config=config)).run_id)
    run_grammar.check(events)
    finished = events[-1].finished
    assert finished.status == run_pb2.RUN_STATUS_LIMITED
    assert finished.failure_reason == ErrorReason.ERROR_REASON_LIMIT_REACHED
    assert finished.failure_message == f"the run met its limit {limit}"
    assert len(await user.messages(thread_id)) > 1


async def test_the_wall_ends_a_run_that_hangs(app: App) -> None:
    app.inference.script = [Reply(texts=["a", "b"], hold=asyncio.Event())]
    user = app.user()
    config = RunConfig(model="tiny")
    config.limits.wall.FromSeconds(5)  # The shortest there is.
    events = await user.watch((await user.start(await user.thread(), config=config)).run_id)
    run_grammar.check(events)
    assert events[-1].finished.failure_message == "the run met its limit wall"
    await until(lambda: app.inference.running == 0)


async def test_the_call_ends_with_ok_however_the_run_does(app: App) -> None:
    app.inference.script = [Reply(failure=Refused())]
    user = app.user()
    run = await user.start(await user.thread())
    call = user.stub.WatchRun(pb.WatchRunRequest(run_id=run.run_id), **user.options)
    _ = [event async for event in call]
    assert await call.code() is grpc.StatusCode.OK
