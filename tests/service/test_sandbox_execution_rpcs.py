"""Executions that outlive their call: found by id, watched from anywhere, fed, interrupted and ended."""

import asyncio
import random

import pytest
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service

from services.common.audit import Outcome as Told
from services.sandbox.core.keeping import Keeping
from services.sandbox.core.results import encode
from services.sandbox.ports import Stream
from tests.service.sandbox_executions import ended, events, kinds, serving
from tests.service.sandbox_rpcs import refusal

PNG = {"image/png": b"\x89PNG", "text/plain": b"<Figure>"}


async def test_it_goes_on_without_a_reader() -> None:
    async with serving() as world:
        started = await world.start("e-1")
        assert (started.execution_id, started.profile, started.engine) == ("e-1", "python", "")
        assert started.HasField("create_time")
        jail = await world.jails.next_begun()
        jail.write(Stream.STDOUT, b"abc")
        jail.write(Stream.RESULTS, encode(PNG))
        running = await world.get("e-1")
        assert running.state == pb.EXECUTION_STATE_RUNNING
        assert (running.engine, running.stdout_bytes, running.result_count) == ("fake", 3, 1)
        assert not running.HasField("exited")
        jail.end(3)
        assert kinds(await world.watched("e-1")) == ["started", "stdout", "result", "exited"]
        over = await world.get("e-1")
        assert over.state == pb.EXECUTION_STATE_EXITED
        assert (over.exited.outcome, over.exited.exit_code) == (pb.OUTCOME_ERROR, 3)


async def test_the_same_start_twice_is_one_execution_and_another_is_an_error() -> None:
    async with serving() as world:
        await asyncio.gather(*(world.start("e-1", "print(1)") for _ in range(5)))
        jail = await world.jails.next_begun()
        assert world.jails.given.empty()
        reused = await refusal(world.call("StartExecution", start("e-1", "print(2)")))
        assert (reused.code, reused.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        jail.end(0)
        await ended(world, "e-1")
        assert (await world.start("e-1", "print(1)")).state == pb.EXECUTION_STATE_EXITED
        await world.start("e-1", "print(2)", who="ben@o")  # Another user's ids are their own.
        (await world.jails.next_begun()).end(0)


def start(execution_id: str, code: str = "1") -> service.StartExecutionRequest:
    return service.StartExecutionRequest(execution_id=execution_id, spec=pb.ExecutionSpec(code=code))


@pytest.mark.parametrize("who", ["ben@o", "ada@elsewhere"])
async def test_to_others_it_does_not_exist(who: str) -> None:
    async with serving() as world:
        await world.start("e-1")
        jail = await world.jails.next_begun()
        for method, request in {
            "GetExecution": service.GetExecutionRequest(execution_id="e-1"),
            "WatchExecution": service.WatchExecutionRequest(execution_id="e-1"),
            "SendInput": service.SendInputRequest(execution_id="e-1"),
            "InterruptExecution": service.InterruptExecutionRequest(execution_id="e-1"),
            "KillExecution": service.KillExecutionRequest(execution_id="e-1"),
        }.items():
            refused = await refusal(world.call(method, request, who))
            assert (refused.code, refused.reason) == ("NOT_FOUND", "EXECUTION_NOT_FOUND")
        assert (jail.kill_count, jail.interrupt_count) == (0, 0)
        jail.end(0)


async def test_any_number_watch_from_wherever_they_are_and_see_the_same() -> None:
    rng = random.Random(7)
    async with serving() as world:
        await world.start("e-1")
        jail = await world.jails.next_begun()
        out, err = rng.randbytes(900), rng.randbytes(700)
        results = [encode({"text/plain": str(number).encode()}) for number in range(5)]
        seen = [(rng.randrange(950), rng.randrange(750), rng.randrange(6)) for _ in range(12)]
        watching = [
            asyncio.create_task(world.watched("e-1", stdout_offset=a, stderr_offset=b, result_count=c))
            for a, b, c in seen
        ]
        for at in range(0, 900, 45):
            jail.write(Stream.STDOUT, out[at : at + 45])
            jail.write(Stream.STDERR, err[at : at + 45])
            if at % 180 == 0:
                jail.write(Stream.RESULTS, results[at // 180])
            await asyncio.sleep(0)
        jail.end(0)
        told = await asyncio.gather(*watching)
        afterwards = [
            await world.watched("e-1", stdout_offset=a, stderr_offset=b, result_count=c) for a, b, c in seen
        ]
        for (a, b, c), live, late in zip(seen, told, afterwards, strict=True):
            for got in (live, late):
                assert b"".join(event.stdout.data for event in got) == out[a:]
                assert b"".join(event.stderr.data for event in got) == err[b:]
                shown = [event.result.data["text/plain"] for event in got if event.HasField("result")]
                assert shown == [str(number).encode() for number in range(c, 5)]
                assert [event.sequence for event in got] == list(range(1, len(got) + 1))
                assert got[-1].exited.outcome == pb.OUTCOME_OK


async def test_who_reads_slowly_holds_nobody_up() -> None:
    async with serving() as world:
        await world.start("e-1")
        jail = await world.jails.next_begun()
        slow = world.watch("e-1")
        assert (await anext(aiter(slow))).event.HasField("started")
        for _ in range(1000):
            jail.write(Stream.STDOUT, b"x")
        jail.end(0)
        assert (await ended(world, "e-1")).outcome == pb.OUTCOME_OK
        assert sum(len(event.stdout.data) for event in await events(slow)) == 1000


async def test_results_are_bounded_and_the_loss_is_told() -> None:
    async with serving() as world:
        call = world.execute()
        jail = await world.jails.next_begun()
        for _ in range(70):
            jail.write(Stream.RESULTS, encode({"text/plain": b"x"}))
        jail.end(0)
        told = await events(call)
        assert kinds(told).count("result") == 64
        assert told[-1].exited.results_truncated
        assert not told[-1].exited.stdout_truncated


async def test_the_limits_that_were_reached_are_told_and_the_one_that_ended_it_first() -> None:
    async with serving() as world:
        call = world.execute()
        jail = await world.jails.next_begun()
        jail.write(Stream.STDOUT, b"x" * 1001)
        jail.end(0)
        assert list((await events(call))[-1].exited.limits_reached) == [pb.LIMIT_KIND_OUTPUT]
        limits = pb.Limits()
        limits.wall.nanos = 20_000_000
        call = world.execute(limits=limits)
        (await world.jails.next_begun()).write(Stream.STDOUT, b"x" * 1001)
        exited = (await events(call))[-1].exited
        assert exited.outcome == pb.OUTCOME_TIMEOUT
        assert list(exited.limits_reached) == [pb.LIMIT_KIND_WALL, pb.LIMIT_KIND_OUTPUT]


async def test_what_has_ended_is_forgotten_in_the_end() -> None:
    async with serving(keeping=Keeping(seconds=0.05)) as world:
        await world.start("e-1")
        (await world.jails.next_begun()).end(0)
        request = service.GetExecutionRequest(execution_id="e-1")
        while True:
            try:
                await world.call("GetExecution", request)
            except Exception:
                break
        assert (await refusal(world.call("GetExecution", request))).reason == "EXECUTION_NOT_FOUND"
        await world.start("e-1", "something else")
        (await world.jails.next_begun()).end(0)


async def test_only_so_much_is_kept_and_never_less_than_what_runs() -> None:
    async with serving(keeping=Keeping(count_max=8)) as world:
        await world.start("runs")
        jail = await world.jails.next_begun()
        for number in range(4):
            await world.start(f"e-{number}")
            (await world.jails.next_begun()).end(0)
            await ended(world, f"e-{number}")
        missing = service.GetExecutionRequest(execution_id="e-0")
        assert (await refusal(world.call("GetExecution", missing))).reason == "EXECUTION_NOT_FOUND"
        assert (await world.get("e-3")).state == pb.EXECUTION_STATE_EXITED
        assert (await world.get("runs")).state == pb.EXECUTION_STATE_RUNNING
        jail.end(0)


async def test_what_failed_before_it_ran_is_told_and_may_be_started_again() -> None:
    async with serving(running_max=1) as world:
        await world.start("e-1")
        jail = await world.jails.next_begun()
        await world.start("e-2")
        world.jails.problem = "it went down"
        jail.end(0)
        for call in (
            world.watch("e-2"),
            world.call("GetExecution", service.GetExecutionRequest(execution_id="e-2")),
        ):
            assert (await refusal(call)).reason == "SANDBOX_UNAVAILABLE"
        world.jails.problem = None
        await world.start("e-2")
        (await world.jails.next_begun()).end(0)
        assert (await ended(world, "e-2")).outcome == pb.OUTCOME_OK


async def test_who_floods_is_told_so_and_others_go_first() -> None:
    async with serving(running_max=1, waiting_max=4, user_executions_max=3) as world:
        for number in range(3):
            await world.start(f"e-{number}")
        flood = await refusal(world.execute())
        assert (flood.code, flood.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_EXECUTIONS")
        assert flood.facts == {"executions_max": "3"}
        ben = world.execute(who="ben@o")
        assert (await anext(aiter(ben))).event.queued.ahead_count == 0
        waiting = world.watch("e-2")
        assert (await anext(aiter(waiting))).event.queued.ahead_count == 2
        (await world.jails.next_begun()).end(0)
        await ended(world, "e-0")
        (await world.jails.next_begun()).end(0)
        assert (await events(ben))[-1].exited.outcome == pb.OUTCOME_OK
        assert world.measured("refused_total", reason="TOO_MANY_EXECUTIONS") == 1


async def test_a_deadline_that_passes_while_it_waits_ends_it_cleanly() -> None:
    async with serving(running_max=1) as world:
        await world.start("e-1")
        jail = await world.jails.next_begun()
        with pytest.raises(Exception, match="Deadline Exceeded"):
            await events(world.execute(timeout_s=0.1))
        books = world.engine.places.books
        while books.waiting_count:
            await asyncio.sleep(0)
        assert books.running_count == 1
        jail.end(0)
        await ended(world, "e-1")
        assert world.jails.given.empty()


async def test_each_is_audited_by_its_hash_and_those_refused_as_well() -> None:
    async with serving(running_max=1, user_executions_max=1) as world:
        await world.start("e-1", "secret code")
        jail = await world.jails.next_begun()
        await refusal(world.execute("more secret code"))
        jail.end(0)
        await ended(world, "e-1")
        while len(world.trail.events) < 2:
            await asyncio.sleep(0)
        refused, ran = world.trail.events
        assert (refused.outcome, refused.reason) == (Told.FAILED, "TOO_MANY_EXECUTIONS")
        assert (ran.outcome, ran.reason, ran.object) == (Told.ALLOWED, "OK", "execution/e-1")
        assert all(len(each.details["code_sha256"]) == 64 for each in (refused, ran))
        assert "secret" not in str(world.trail.events)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("StartExecution", start("no spaces"), "execution_id"),
        ("StartExecution", start(""), "execution_id"),
        ("StartExecution", start("e", ""), "spec.code"),
        ("StartExecution", service.StartExecutionRequest(execution_id="e"), "spec"),
        (
            "WatchExecution",
            service.WatchExecutionRequest(execution_id="e", stdout_offset=-1),
            "stdout_offset",
        ),
        ("SendInput", service.SendInputRequest(execution_id="e", offset=-1), "offset"),
        ("SendInput", service.SendInputRequest(execution_id="e", data=bytes((1 << 20) + 1)), "data"),
    ],
)
async def test_bad_fields_are_named(method: str, request_: object, field: str) -> None:
    async with serving() as world:
        refused = await refusal(world.call(method, request_))
        assert (refused.code, refused.reason, refused.fields) == (
            "INVALID_ARGUMENT",
            "INVALID_REQUEST",
            (field,),
        )


@pytest.mark.parametrize("field", ["memory_bytes", "process_count", "output_bytes", "files_bytes"])
async def test_absurd_limits_are_named_or_lowered(field: str) -> None:
    async with serving() as world:
        negative = pb.Limits(**{field: -1})  # type: ignore[arg-type]
        assert (await refusal(world.execute(limits=negative))).fields == (f"spec.limits.{field}",)
        most = 2**31 - 1 if field == "process_count" else 2**62
        call = world.execute(limits=pb.Limits(**{field: most}))  # type: ignore[arg-type]
        held = (await anext(aiter(call))).event.started.limits
        assert getattr(held, field) == getattr(world.executions.caps.usual, field)
        (await world.jails.next_begun()).end(0)
        await events(call)


async def test_what_is_given_out_and_kept_is_measured() -> None:
    async with serving(running_max=1) as world:
        await world.start("e-1")
        jail = await world.jails.next_begun()
        await world.start("e-2")
        limit_bytes = world.executions.caps.usual.memory_bytes
        names = ("running", "waiting", "memory_reserved_bytes", "kept", "kept_bytes")
        assert [world.measured(name) for name in names] == [1, 1, limit_bytes, 0, 0]
        jail.write(Stream.STDOUT, b"abc")
        jail.end(0)
        await ended(world, "e-1")
        (await world.jails.next_begun()).end(0)
        await ended(world, "e-2")
        while world.measured("kept") < 2:
            await asyncio.sleep(0)
        assert [world.measured(name) for name in names] == [0, 0, 0, 2, 3]
        assert world.measured("executions_total", outcome="OK", profile="python", engine="fake") == 2


async def test_in_a_session_they_can_be_found_as_well() -> None:
    async with serving() as world:
        session = (await world.call("CreateSession", service.CreateSessionRequest())).session
        await world.start("e-1", "print(1)", session_id=session.session_id)
        events_ = await world.watched("e-1")
        assert events_[-1].exited.outcome == pb.OUTCOME_OK
        found = await world.get("e-1")
        assert (found.session_id, found.state) == (session.session_id, pb.EXECUTION_STATE_EXITED)
        assert (await world.kill("e-1")).exited == found.exited
