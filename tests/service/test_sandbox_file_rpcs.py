"""PutFile, GetFile, ListFiles and DeleteFile, as callers see them."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

from services.sandbox.core.pages import to_token
from services.sandbox.rpc.files import CHUNK_BYTES_MAX
from tests.service.sandbox_rpcs import FILE_BYTES_MAX, Rpcs, header, refusal, serving

BAD_PATHS = ("/etc/passwd", "../a", "a/../b", "a//b", "a/", ".", "a\0b", "x" * 256, "a/" * 40 + "b")


@pytest.fixture
async def rpcs() -> AsyncIterator[Rpcs]:
    async with serving() as made:
        yield made


@pytest.fixture
async def session_id(rpcs: Rpcs) -> str:
    return (await rpcs.session()).session_id


async def test_a_file_comes_back_from_any_byte_on(rpcs: Rpcs, session_id: str) -> None:
    data = os.urandom(700_000)
    put = await rpcs.put(session_id, "a/b.bin", [data[:1], b"", data[1:500_000], data[500_000:]])
    assert (put.path, put.size_bytes, put.folder) == ("a/b.bin", len(data), False)
    for offset in (0, 1, 699_999, 700_000, 800_000):
        file, chunks = await rpcs.read(session_id, "a/b.bin", offset)
        assert file.size_bytes == len(data)
        assert b"".join(chunks) == data[offset:]
        assert all(len(chunk) <= CHUNK_BYTES_MAX for chunk in chunks)


async def test_an_empty_file_needs_no_chunk(rpcs: Rpcs, session_id: str) -> None:
    assert (await rpcs.put(session_id, "a", [])).size_bytes == 0
    assert (await rpcs.put(session_id, "b", [b""])).size_bytes == 0
    assert (await rpcs.read(session_id, "a"))[1] == []


@pytest.mark.parametrize("size_bytes", [0, 1, 3, 5, 2_000])
async def test_a_size_that_is_not_kept_leaves_nothing(rpcs: Rpcs, session_id: str, size_bytes: int) -> None:
    found = await refusal(rpcs.put(session_id, "a", [b"12", b"34"], size_bytes=size_bytes))
    assert (found.code, found.reason, found.fields) == ("INVALID_ARGUMENT", "INVALID_REQUEST", ("chunk",))
    assert not (await rpcs.listed(session_id)).files


async def test_a_header_comes_first_and_once(rpcs: Rpcs, session_id: str) -> None:
    head, chunk = header(session_id, "a", 2), pb.PutFileRequest(chunk=b"1")
    for parts in (
        [],
        [chunk],
        [chunk, head],
        [head, chunk, head, chunk],
        [head, head],
        [pb.PutFileRequest()],
    ):
        found = await refusal(rpcs.call("PutFile", iter(parts)))
        assert found.reason == "INVALID_REQUEST"
        assert found.fields in {("header",), ("part",)}
    assert not (await rpcs.listed(session_id)).files


async def test_a_file_has_so_many_bytes(rpcs: Rpcs, session_id: str) -> None:
    found = await refusal(rpcs.put(session_id, "a", [], size_bytes=FILE_BYTES_MAX + 1))
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "FILE_TOO_LARGE")
    assert found.facts == {"max_bytes": str(FILE_BYTES_MAX)}
    part = bytes(1 << 20)
    assert (await rpcs.put(session_id, "a", [part, part])).size_bytes == FILE_BYTES_MAX


@pytest.mark.parametrize("path", BAD_PATHS)
async def test_bad_names_are_told_by_their_field(rpcs: Rpcs, session_id: str, path: str) -> None:
    calls: dict[str, Any] = {
        "header.path": rpcs.put(session_id, path, [b"1"]),
        "path": rpcs.call("GetFile", pb.GetFileRequest(session_id=session_id, path=path)),
    }
    more = [
        rpcs.call("DeleteFile", pb.DeleteFileRequest(session_id=session_id, path=path)),
        rpcs.listed(session_id, path),
    ]
    for field, call in calls.items():
        found = await refusal(call)
        assert (found.reason, found.fields) == ("INVALID_REQUEST", (field,))
    for call in more:
        found = await refusal(call)
        assert (found.reason, found.fields) == ("INVALID_REQUEST", ("path",))
    assert rpcs.jail.files.held == {"": None}


async def test_who_is_refused_learns_why_however_much_was_on_its_way(rpcs: Rpcs, session_id: str) -> None:
    """A grpc.aio client would make an INTERNAL error of it if its writes failed."""
    part = bytes(1 << 20)
    for path, session, size_bytes, why in (
        ("a", session_id, FILE_BYTES_MAX + 1, "FILE_TOO_LARGE"),
        ("a", "missing", FILE_BYTES_MAX, "SESSION_NOT_FOUND"),
        ("../a", session_id, FILE_BYTES_MAX, "INVALID_REQUEST"),
        ("a", session_id, 1, "INVALID_REQUEST"),
    ):
        for _ in range(5):
            found = await refusal(rpcs.put(session, path, [part, part], size_bytes=size_bytes))
            assert found.reason == why


async def test_a_refused_sender_that_waits_is_not_waited_for(rpcs: Rpcs) -> None:
    async def parts() -> AsyncIterator[pb.PutFileRequest]:
        yield header("missing", "a", 4)
        await asyncio.Event().wait()

    found = await refusal(rpcs.call("PutFile", parts()))
    assert found.reason == "SESSION_NOT_FOUND"


async def test_who_vanishes_leaves_nothing(rpcs: Rpcs, session_id: str) -> None:
    """Hangs up, or is slower than the deadline."""
    for timeout_s in (20.0, 0.2):
        begun = asyncio.Event()

        async def parts(begun: asyncio.Event = begun) -> AsyncIterator[pb.PutFileRequest]:
            yield header(session_id, "a", 4)
            yield pb.PutFileRequest(chunk=b"12")
            begun.set()
            await asyncio.Event().wait()

        call = rpcs.call("PutFile", parts(), timeout_s=timeout_s)
        await begun.wait()
        if timeout_s > 1:
            call.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await call
        session = rpcs.sessions.get(next(iter(rpcs.sessions._sessions))[0], session_id)
        while session._file_use_count:
            await asyncio.sleep(0.005)
        assert not (await rpcs.listed(session_id)).files


async def test_who_stops_reading_gives_its_place_back(rpcs: Rpcs, session_id: str) -> None:
    await rpcs.put(session_id, "a", [bytes(1 << 20)])
    session = rpcs.sessions.get(next(iter(rpcs.sessions._sessions))[0], session_id)
    for _ in range(20):
        call = rpcs.call("GetFile", pb.GetFileRequest(session_id=session_id, path="a"))
        await call.read()
        call.cancel()
        while session._file_use_count:
            await asyncio.sleep(0.005)


async def test_a_list_has_pages_by_name(rpcs: Rpcs, session_id: str) -> None:
    every = ["Z", "a", "a b", "b/c", "é"]
    for path in every:
        await rpcs.put(session_id, path, [b"1"])
    told: list[tuple[str, bool]] = []
    token = ""
    while True:
        page = await rpcs.listed(session_id, page_size=2, page_token=token)
        assert len(page.files) <= 2
        told += [(file.path, file.folder) for file in page.files]
        if not (token := page.next_page_token):
            break
    assert told == [("Z", False), ("a", False), ("a b", False), ("b", True), ("é", False)]
    assert [file.path for file in (await rpcs.listed(session_id, "b")).files] == ["b/c"]
    found = await refusal(rpcs.listed(session_id, page_token="%"))
    assert (found.reason, found.fields) == ("INVALID_REQUEST", ("page_token",))


@pytest.mark.parametrize("name", ["a/b", "..", "x" * 256, "\1" * 1500])
async def test_a_page_token_that_holds_no_name_reaches_no_jail(
    rpcs: Rpcs, session_id: str, name: str
) -> None:
    """The last was longer than its packet to the init, which died of it, and the session with it."""
    found = await refusal(rpcs.listed(session_id, page_token=to_token(name)))
    assert (found.reason, found.fields) == ("INVALID_REQUEST", ("page_token",))


async def test_names_and_times_that_cannot_be_said_break_nothing(
    rpcs: Rpcs, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may give a file a name that is no text, and any time."""
    held = rpcs.jail.files.held
    held.update({"a": b"1", "b\udcff": b"2", "c": b"3"})
    for modified_s in (-1e18, 1e18):
        monkeypatch.setattr("tests.fakes.fake_session_jail.MODIFIED_S", modified_s)
        assert [file.path for file in (await rpcs.listed(session_id)).files] == ["a", "c"]
    first = await rpcs.listed(session_id, page_size=2)
    rest = await rpcs.listed(session_id, page_size=2, page_token=first.next_page_token)
    assert [file.path for page in (first, rest) for file in page.files] == ["a", "c"]


async def test_deleting_is_idempotent(rpcs: Rpcs, session_id: str) -> None:
    await rpcs.put(session_id, "a/b", [b"1"])
    for path in ("a", "a", "never"):
        await rpcs.call("DeleteFile", pb.DeleteFileRequest(session_id=session_id, path=path))
    assert not (await rpcs.listed(session_id)).files


async def test_the_port_s_refusals_are_told(rpcs: Rpcs, session_id: str) -> None:
    await rpcs.put(session_id, "a/b", [b"1"])
    for call, reason, code in (
        (rpcs.put(session_id, "a", [b"1"]), "FILE_NOT_REGULAR", "FAILED_PRECONDITION"),
        (rpcs.read(session_id, "a"), "FILE_NOT_REGULAR", "FAILED_PRECONDITION"),
        (rpcs.read(session_id, "c"), "FILE_NOT_FOUND", "NOT_FOUND"),
        (rpcs.listed(session_id, "c"), "FILE_NOT_FOUND", "NOT_FOUND"),
    ):
        found = await refusal(call)
        assert (found.reason, found.code) == (reason, code)


async def test_files_are_used_while_something_runs(rpcs: Rpcs, session_id: str) -> None:
    session = rpcs.sessions.get(next(iter(rpcs.sessions._sessions))[0], session_id)
    session.begin(lambda: None)
    await rpcs.put(session_id, "a", [b"1"])
    assert (await rpcs.read(session_id, "a"))[1] == [b"1"]


async def test_files_keep_a_session_from_being_idle(rpcs: Rpcs, session_id: str) -> None:
    before = (await rpcs.get(session_id)).expire_time.ToMicroseconds()
    for act in (rpcs.put(session_id, "a", [b"1"]), rpcs.read(session_id, "a"), rpcs.listed(session_id)):
        await act
        after = (await rpcs.get(session_id)).expire_time.ToMicroseconds()
        assert after > before
        before = after


async def test_the_trail_knows_of_files_and_not_what_they_are(rpcs: Rpcs, session_id: str) -> None:
    await rpcs.put(session_id, "secret name", [b"secret content"])
    await rpcs.read(session_id, "secret name", 4)
    await refusal(rpcs.read(session_id, "missing"))
    await rpcs.call("DeleteFile", pb.DeleteFileRequest(session_id=session_id, path="secret name"))
    path = {"path_sha256": hashlib.sha256(b"secret name").hexdigest()}
    assert rpcs.acts[1:] == [
        ("FILE_WRITTEN", "", {"act": "put", "size_bytes": "14", **path}),
        ("FILE_READ", "", {"size_bytes": "10", **path}),
        ("FILE_WRITTEN", "", {"act": "delete", **path}),
    ]
    assert "secret" not in repr(rpcs.trail.events)
    value = rpcs.registry.get_sample_value
    assert value("ollamesh_sandbox_file_bytes_total", {"direction": "put"}) == 14
    assert value("ollamesh_sandbox_file_bytes_total", {"direction": "get"}) == 10
