"""Files of a session, where its program sets traps for whoever reads and writes them by name."""

import asyncio
import random
import string
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place
from tests.service.sandbox_app import reason
from tests.service.sandbox_sessions import Client

ENGINES = ("ns",)  # The others keep no sessions.
REFUSED = {"FILE_NOT_FOUND", "FILE_NOT_REGULAR", "FILE_TOO_LARGE", "INVALID_REQUEST"}
SWAP = """
import os, threading
os.mkdir("/work/folder"); open("/work/folder/passwd", "w").write("own")
def swap():
    while True:
        try:  # A file that is put meanwhile can get in the way.
            if not os.path.lexists("/work/folder/passwd"): open("/work/folder/passwd", "w").write("own")
        except OSError: pass
        try:
            os.rename("/work/folder", "/work/aside"); os.symlink("/etc", "/work/folder")
            os.unlink("/work/folder"); os.rename("/work/aside", "/work/folder")
        except OSError: pass
        try:
            os.rename("/work/folder/passwd", "/work/folder/x"); os.symlink("/etc/passwd", "/work/folder/passwd")
            os.unlink("/work/folder/passwd"); os.rename("/work/folder/x", "/work/folder/passwd")
        except OSError: pass
print("up", flush=True)
swap()
"""


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with place.service.ready() as sandbox:
        yield Client(sandbox)


@pytest.fixture
async def session_id(client: Client) -> AsyncIterator[str]:
    made = await client.session()
    yield made
    await client.ask("DeleteSession", session_id=made)


async def tried(client: Client, session_id: str, what: str, path: str) -> str | bytes:
    """What it gave, or the reason why it gave nothing."""
    try:
        async with asyncio.timeout(10):
            match what:
                case "get":
                    return await client.get(session_id, path)
                case "put":
                    return str((await client.put(session_id, path, b"put")).path)
                case "list":
                    return " ".join(await client.names(session_id, path))
                case _:
                    await client.ask("DeleteFile", session_id=session_id, path=path)
                    return ""
    except grpc.aio.AioRpcError as error:
        return str(reason(error).reason)


@pytest.mark.parametrize(
    ("trap", "path"),
    [
        pytest.param("os.symlink(OUTSIDE['file'], 'x')", "x", id="link-to-the-host"),
        pytest.param("os.symlink('/etc/passwd', 'x')", "x", id="link-to-the-root"),
        pytest.param("os.symlink('/proc/self/environ', 'x')", "x", id="link-to-the-reader"),
        pytest.param("os.symlink('/proc/1/environ', 'x')", "x", id="link-to-the-init"),
        pytest.param("os.symlink('/proc/self/fd/0', 'x')", "x", id="link-to-a-descriptor"),
        pytest.param("os.symlink('/etc', 'd')", "d/passwd", id="folder-that-is-a-link"),
        pytest.param("os.symlink('/', 'd')", "d/etc/passwd", id="root-that-is-a-link"),
        pytest.param("os.symlink('..', 'd')", "d/etc/passwd", id="link-up"),
        pytest.param("os.symlink('x', 'x')", "x", id="link-to-itself"),
        pytest.param("os.symlink('/tmp', 'd'); open('/tmp/x', 'w').write('tmp')", "d/x", id="link-to-tmp"),
        pytest.param("import socket; socket.socket(1).bind('x')", "x", id="socket"),
        pytest.param("os.mkdir('x')", "x", id="folder"),
    ],
)
async def test_names_lead_nowhere_else(
    client: Client, session_id: str, outside: Outside, trap: str, path: str
) -> None:
    """Neither bytes from elsewhere, nor a write there, nor a call that does not end."""
    ran = await client.run(session_id, outside.program(trap))
    assert ran.outcome == "OK", ran.stderr
    assert await tried(client, session_id, "get", path) in REFUSED
    put = await tried(client, session_id, "put", path)
    assert put in REFUSED, put
    listed = await tried(client, session_id, "list", path.partition("/")[0])
    assert listed in REFUSED or trap == "os.mkdir('x')", listed
    await tried(client, session_id, "delete", path)
    ran = await client.run(session_id, "print(os.path.exists('/etc/passwd'), os.listdir('/tmp'))")
    assert ran.stdout in {"True []\n", "True ['x']\n"}
    assert outside.touched() == []


async def test_a_regular_file_is_had(client: Client, session_id: str) -> None:
    """The traps above are refused for what they are, and not because nothing can be had."""
    await client.run(session_id, "import os; os.mkdir('d'); open('d/x', 'w').write('mine')")
    assert await tried(client, session_id, "get", "d/x") == b"mine"
    assert await tried(client, session_id, "list", "d") == "d/x"
    assert await tried(client, session_id, "put", "d/x") == "d/x"
    assert await tried(client, session_id, "get", "d/x") == b"put"


async def test_races_of_links_win_nothing(client: Client, session_id: str) -> None:
    """A folder or a file that is now itself and now a link elsewhere."""
    call = await client.begun(session_id, SWAP)
    seen: set[str | bytes] = set()
    for number in range(1000):
        if number >= 100 and b"own" in seen and seen & REFUSED:  # Now it was itself, and now a link.
            break
        seen.add(await tried(client, session_id, "get", "folder/passwd"))
        seen.add(await tried(client, session_id, "put", "folder/new"))
        await tried(client, session_id, "delete", "folder/passwd-")
    call.cancel()
    # It is empty for a moment, when the program has opened it and not written yet.
    assert seen <= {b"own", b"", "folder/new", *REFUSED}, seen
    assert b"own" in seen
    assert seen & REFUSED


@pytest.mark.parametrize(
    "trap",
    [
        pytest.param("os.chmod('/work', 0)", id="folder-closed"),
        pytest.param("open('x', 'w').write('y'); os.chmod('x', 0)", id="file-closed"),
        pytest.param("file = open('x', 'wb')\ntry:\n while True: file.write(bytes(1 << 20))\nexcept OSError: pass", id="full"),
        pytest.param("for n in range(3000): open(f'{n}', 'w').close()", id="many"),
        pytest.param("for n in range(1000): os.mkdir('d'); os.chdir('d')", id="deep"),
        pytest.param("file = open('x', 'wb'); file.truncate(48 << 20)", id="sparse"),
        pytest.param("import fcntl; file = open('x', 'wb'); file.write(b'y'); file.flush(); fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)", id="leased"),
        pytest.param("for n in (b'\\xff', b'a\\nb', b'\\xed\\xa0\\x80', b'.', b'..'):\n try: open(n, 'w').close()\n except OSError: pass", id="names-of-bytes"),
        pytest.param("import os; open('x', 'w').close(); os.utime('x', (-2**40, 2**40))", id="times"),
    ],
)  # fmt: skip
async def test_nothing_hangs_and_the_session_can_be_deleted(
    client: Client, outside: Outside, place: Place, trap: str
) -> None:
    session_id = await client.session()
    await client.run(session_id, outside.program(trap))
    for what in ("list", "get", "put", "delete", "list"):
        answer = await tried(client, session_id, what, "" if what == "list" else "x")
        assert isinstance(answer, bytes) or answer.isupper() <= (answer in REFUSED), (what, answer)
    await client.ask("DeleteSession", session_id=session_id)
    assert place.left_behind() == []


async def test_a_file_that_changes_while_it_is_read(client: Client, session_id: str) -> None:
    """It ends, and holds no more than the largest that the file has been."""
    code = """
import os
file = os.open("x", os.O_RDWR | os.O_CREAT)
os.pwrite(file, b"a" * (8 << 20), 0)
print("up", flush=True)
while True:
    os.ftruncate(file, 0); os.pwrite(file, b"b" * (8 << 20), 0)
"""
    call = await client.begun(session_id, code)
    for _ in range(10):
        data = await tried(client, session_id, "get", "x")
        assert data in REFUSED or (
            isinstance(data, bytes) and set(data) <= set(b"ab") and len(data) <= 8 << 20
        )
    call.cancel()


async def test_names_of_every_kind(client: Client, session_id: str) -> None:
    """Property: what is put under a name is had under it, listed and deleted; else the name is refused."""
    draw = random.Random(7)
    letters = string.ascii_letters + string.punctuation + " \t\n\0\x7f\x1b" + "é\u202e\ufeff😀\u0301"
    for _ in range(60):
        path = "".join(draw.choices(letters, k=draw.randint(1, 40)))
        answer = await tried(client, session_id, "put", path)
        if answer in REFUSED:
            continue
        assert answer == path
        assert await tried(client, session_id, "get", path) == b"put"
        assert await tried(client, session_id, "delete", path) == ""
        assert await tried(client, session_id, "get", path) == "FILE_NOT_FOUND"
