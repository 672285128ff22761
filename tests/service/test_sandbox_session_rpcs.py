"""CreateSession, GetSession, ListSessions and DeleteSession, as callers see them."""

import asyncio

from ollamesh.sandbox.v1 import execution_pb2
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

from services.sandbox.core.owners import Owner
from tests.service.sandbox_rpcs import Rpcs, refusal, serving

STRANGERS = ("bob@o", "ada@elsewhere")


async def test_a_session_says_what_it_is() -> None:
    async with serving() as rpcs:
        made = await rpcs.session()
        assert (made.profile, made.engine, made.state) == ("python", "fake", pb.SESSION_STATE_IDLE)
        assert made.limits.memory_bytes == 512 << 20
        assert made.restart_count == 0
        life_s = made.end_time.ToMicroseconds() - made.create_time.ToMicroseconds()
        idle_s = made.expire_time.ToMicroseconds() - made.create_time.ToMicroseconds()
        assert abs(life_s / 1e6 - 3600) < 5
        assert abs(idle_s / 1e6 - 600) < 5
        found = await rpcs.get(made.session_id)
        assert (found.session_id, found.create_time) == (made.session_id, made.create_time)


async def test_a_busy_session_says_so_and_does_not_expire() -> None:
    async with serving() as rpcs:
        made = await rpcs.session()
        turn = rpcs.sessions.get(Owner("o", "ada"), made.session_id).begin(lambda: None)
        busy = await rpcs.get(made.session_id)
        assert busy.state == pb.SESSION_STATE_BUSY
        assert abs(busy.expire_time.ToMicroseconds() - busy.end_time.ToMicroseconds()) < 5e6
        await turn.over()
        assert (await rpcs.get(made.session_id)).state == pb.SESSION_STATE_IDLE


async def test_wishes_are_granted_as_far_as_they_may() -> None:
    async with serving() as rpcs:
        limits = execution_pb2.Limits(memory_bytes=64 << 20, files_bytes=1 << 40)
        made = await rpcs.session(limits=limits, idle_timeout={"seconds": 30})
        assert (made.limits.memory_bytes, made.limits.files_bytes) == (64 << 20, 64 << 20)
        assert 25 < (made.expire_time.ToMicroseconds() - made.create_time.ToMicroseconds()) / 1e6 < 35


async def test_a_retry_finds_what_was_made() -> None:
    async with serving() as rpcs:
        one, other = await asyncio.gather(rpcs.session(request_id="r"), rpcs.session(request_id="r"))
        assert one.session_id == other.session_id
        call = rpcs.call("CreateSession", pb.CreateSessionRequest(request_id="r", engine="fake"))
        found = await refusal(call)
        assert (found.code, found.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert (await rpcs.session("bob@o", request_id="r")).session_id != one.session_id


async def test_what_does_not_exist_is_refused_by_name() -> None:
    async with serving() as rpcs:
        for request, reason in (
            (pb.CreateSessionRequest(profile="cobol"), "PROFILE_UNKNOWN"),
            (pb.CreateSessionRequest(engine="steam"), "ENGINE_UNKNOWN"),
        ):
            found = await refusal(rpcs.call("CreateSession", request))
            assert (found.code, found.reason) == ("INVALID_ARGUMENT", reason)


async def test_a_user_has_so_many() -> None:
    async with serving(per_user_max=1) as rpcs:
        made = await rpcs.session()
        found = await refusal(rpcs.call("CreateSession", pb.CreateSessionRequest()))
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_SESSIONS")
        assert found.facts == {"sessions_max": "1"}
        await rpcs.session("bob@o")
        await rpcs.call("DeleteSession", pb.DeleteSessionRequest(session_id=made.session_id))
        await rpcs.session()


async def test_strangers_cannot_tell_whether_it_exists() -> None:
    async with serving() as rpcs:
        session_id = (await rpcs.session()).session_id
        missing = await refusal(rpcs.call("GetSession", pb.GetSessionRequest(session_id="missing")))
        for who in STRANGERS:
            await rpcs.call("DeleteSession", pb.DeleteSessionRequest(session_id=session_id), who)
            assert not (await rpcs.call("ListSessions", pb.ListSessionsRequest(), who)).sessions
            for call in of_session(rpcs, session_id, who):
                assert await refusal(call) == missing
        assert (await rpcs.get(session_id)).state == pb.SESSION_STATE_IDLE
        assert missing.reason == "SESSION_NOT_FOUND"


def of_session(rpcs: Rpcs, session_id: str, who: str) -> list[object]:
    put = pb.PutFileRequest(header={"session_id": session_id, "path": "a", "size_bytes": 0})
    return [
        rpcs.call("GetSession", pb.GetSessionRequest(session_id=session_id), who),
        rpcs.call("ListFiles", pb.ListFilesRequest(session_id=session_id), who),
        rpcs.call("GetFile", pb.GetFileRequest(session_id=session_id, path="a"), who),
        rpcs.call("DeleteFile", pb.DeleteFileRequest(session_id=session_id, path="a"), who),
        rpcs.call("PutFile", iter([put]), who),
    ]


async def test_a_list_has_pages_newest_first() -> None:
    async with serving(per_user_max=5) as rpcs:
        made = [(await rpcs.session()).session_id for _ in range(5)]
        await rpcs.session("bob@o")
        told: list[str] = []
        token = ""
        while True:
            page = await rpcs.call("ListSessions", pb.ListSessionsRequest(page_size=2, page_token=token))
            assert len(page.sessions) <= 2
            told += [session.session_id for session in page.sessions]
            if not (token := page.next_page_token):
                break
        assert told == made[::-1]
        found = await refusal(rpcs.call("ListSessions", pb.ListSessionsRequest(page_token="%")))
        assert (found.reason, found.fields) == ("INVALID_REQUEST", ("page_token",))


async def test_deleting_is_idempotent_and_final() -> None:
    async with serving() as rpcs:
        session_id = (await rpcs.session()).session_id
        request = pb.DeleteSessionRequest(session_id=session_id)
        await asyncio.gather(*(rpcs.call("DeleteSession", request) for _ in range(3)))
        await rpcs.call("DeleteSession", request)
        assert not rpcs.jail.alive
        found = await refusal(rpcs.call("GetSession", pb.GetSessionRequest(session_id=session_id)))
        assert found.code == "NOT_FOUND"


async def test_the_trail_and_the_figures_know_of_it() -> None:
    async with serving() as rpcs:
        session_id = (await rpcs.session()).session_id
        value = rpcs.registry.get_sample_value
        assert value("ollamesh_sandbox_sessions") == 1
        rpcs.jail.end(-11)
        while (await rpcs.get(session_id)).restart_count == 0 or not rpcs.jail.alive:
            await asyncio.sleep(0.005)
        assert value("ollamesh_sandbox_session_restarts_total", {"cause": "CRASHED"}) == 1
        await rpcs.call("DeleteSession", pb.DeleteSessionRequest(session_id=session_id))
        assert value("ollamesh_sandbox_sessions") == 0
        assert value("ollamesh_sandbox_sessions_ended_total", {"cause": "DELETED"}) == 1
        assert rpcs.acts == [
            ("SESSION_CREATED", "", {"profile": "python", "engine": "fake"}),
            ("SESSION_ENDED", "DELETED", {"restart_count": "1"}),
        ]
        assert {each.object for each in rpcs.trail.events} == {f"session/{session_id}"}
        assert {(each.organization_id, each.user_id) for each in rpcs.trail.events} == {("o", "ada")}
