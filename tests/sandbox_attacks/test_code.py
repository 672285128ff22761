"""Code that is hard to take in, and data that grows: all of it is the program's trouble, and none of the service's."""

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.sandbox_attacks.case import Case, wall
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place, attack
from tests.service.sandbox_app import TIMEOUT_S, Sandbox

MIB = 1 << 20
SMALL = wall(10, memory_bytes=96 * MIB)

CASES = (
    Case(
        name="pickle-bomb",
        breach="memory beyond the limit, from some bytes",
        outcomes=("OOM", "ERROR"),
        code="""
import pickle
class Grow:
    def __reduce__(self): return (bytes.__mul__, (b"x" * 1024, 1 << 20))
kept = [pickle.loads(pickle.dumps(Grow())) for _ in range(4)]
held("grown", False)
""",
        limits=SMALL,
    ),
    Case(
        name="zlib-bomb",
        breach="the same, from a stream that is smaller by a thousand",
        outcomes=("OOM", "ERROR"),
        code="""
import zlib
packer = zlib.compressobj(1)
packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(120)) + packer.flush()
kept = zlib.decompress(packed)
held("grown", False)
""",
        limits=SMALL,
    ),
    Case(
        name="zip-bomb-on-disk",
        breach="more files than allowed, from an archive",
        outcomes=("OK",),
        code="""
import zipfile
with zipfile.ZipFile("/tmp/bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    for number in range(12): archive.writestr(f"{number}", bytes(8 << 20))
refused("unpacked", lambda: zipfile.ZipFile("/tmp/bomb.zip").extractall("/work"))
""",
    ),
    Case(
        name="billion-laughs",
        breach="memory beyond the limit, from text that repeats itself",
        outcomes=("OOM", "ERROR"),
        code="""
text = "ha"
for _ in range(40): text = "{0}{0}".format(text)
held("grown", False)
""",
        limits=SMALL,
    ),
    Case(
        name="json-without-bottom",
        breach="anything but an error of the program's",
        outcomes=("ERROR", "SIGNALLED"),
        code="json.loads('[' * 1_000_000)",
    ),
    Case(
        name="recursion",
        breach="the same, by calls",
        outcomes=("ERROR", "SIGNALLED", "OOM"),
        code="""
sys.setrecursionlimit(10**9)
def down(): return down()
down()
""",
        limits=SMALL,
    ),
    Case(
        name="recursion-in-c",
        breach="the same, in a stack that nobody counts",
        outcomes=("ERROR", "SIGNALLED"),
        code="""
sys.setrecursionlimit(10**9)
nested = ()
for _ in range(3_000_000): nested = (nested,)
hash(nested)
""",
        limits=wall(10),
    ),
    Case(
        name="a-number-that-is-too-large",
        breach="an execution that outlives its wall limit",
        outcomes=("TIMEOUT", "OOM", "ERROR"),
        code="print(9**9**9)",
        limits=wall(0.5),
    ),
    Case(
        name="compile-bomb",
        breach="memory or time beyond the limits while code is compiled",
        outcomes=("TIMEOUT", "OOM", "ERROR", "SIGNALLED"),
        code="""
compile("x = " + "(" * 90 + "1" + ")" * 90, "a", "exec")
compile("[" + "1," * 20_000_000 + "]", "b", "exec")
""",
        limits=wall(1, memory_bytes=96 * MIB),
    ),
    Case(
        name="nested-beyond-the-parser",
        breach="anything but an error, or a crash of the program's alone",
        outcomes=("ERROR", "SIGNALLED"),
        code="compile('-' * 500_000 + '1', 'deep', 'eval')",
    ),
    Case(
        name="a-crash",
        breach="anything but a signal, told as what it is",
        outcomes=("SIGNALLED",),
        signal=11,
        code="ctypes.string_at(0)",
    ),
    Case(
        name="an-abort",
        breach="the same, with a file of the memory",
        outcomes=("SIGNALLED",),
        signal=6,
        code="os.abort()",
    ),
    Case(
        name="a-stack-overflow-in-a-thread",
        breach="a crash that takes more than the program",
        outcomes=("SIGNALLED", "ERROR", "OOM"),
        limits=SMALL,
        code="""
import threading
threading.stack_size(32768)
sys.setrecursionlimit(10**9)
def down(): return [down()]
threads = [threading.Thread(target=down) for _ in range(4)]
for one in threads: one.start()
for one in threads: one.join()
os._exit(1)
""",
    ),
    Case(
        name="names-that-are-no-text",
        breach="a name of a file that is not UTF-8 and brings something down",
        code="""
for name in (b"\\xff\\xfe", b"a\\nb", b"..." , b"-rf", b"\\x1b[2J", "\\u202e".encode(), b"x" * 255):
    open(b"/work/" + name, "w").close()
sees("names", len(os.listdir(b"/work")) == 7)
print(os.listdir("/work"))
held("listed", True)
""",
    ),
    Case(
        name="output-that-is-no-text",
        breach="output that cannot be sent",
        code="""
os.write(1, bytes(range(256)) * 16 + b"\\n")
os.write(2, b"\\xff\\xfe\\x00" * 100)
held("written", True)
""",
    ),
)

AS_IT_IS = pytest.mark.parametrize(
    ("code", "outcomes"),
    [
        pytest.param("\ufeffprint(1)", {"OK"}, id="byte-order-mark"),
        pytest.param("# coding: rot13\ncevag('k')", {"OK", "ERROR"}, id="rot13"),
        pytest.param("# coding: utf-7\n+AHAAcgBpAG4AdA-(1)", {"OK", "ERROR"}, id="utf-7"),
        pytest.param("# coding: undefined\n", {"ERROR"}, id="undefined"),
        pytest.param("x = '\0'", {"ERROR"}, id="nul"),
        pytest.param("print('\ud7ff\ue000\U0010ffff')", {"OK"}, id="astral"),
        pytest.param("x=1\r\rprint(x)\r\n\f\v", {"OK", "ERROR"}, id="line-ends"),
        pytest.param("(" * 400_000, {"ERROR", "SIGNALLED"}, id="parentheses"),
        pytest.param("x = " + "-" * 400_000 + "1", {"ERROR", "SIGNALLED"}, id="signs"),
        pytest.param(
            "x = " + "[" * 90 + "]" * 90 + "\n" + "a.b" * 100_000, {"ERROR", "SIGNALLED"}, id="dots"
        ),
        pytest.param(
            "if 1:\n" + "".join(f"{' ' * n}if 1:\n" for n in range(1, 100)), {"ERROR"}, id="indents"
        ),
        pytest.param("x = 1\n" * 170_000, {"OK", "TIMEOUT"}, id="a-megabyte"),
        pytest.param("#" * (MIB - 1) + "\n", {"OK"}, id="a-comment-of-a-megabyte"),
        pytest.param("x = '" + "é" * 500_000 + "'", {"OK"}, id="a-long-line"),
        pytest.param("x = (" + "1+" * 100_000 + "1)", {"OK", "ERROR", "SIGNALLED"}, id="a-long-sum"),
        pytest.param("def f(" + ",".join(f"a{n}" for n in range(50_000)) + "): 0", {"OK"}, id="arguments"),
    ],
)


async def test_attack(case: Case, place: Place, outside: Outside) -> None:
    await attack(case, place, outside)


@AS_IT_IS
async def test_code_as_it_is(place: Place, code: str, outcomes: set[str]) -> None:
    async with place.service.ready() as sandbox:
        ran = await sandbox.run(code, limits=pb.Limits(wall=Duration(seconds=10)))
        assert ran.outcome in outcomes, (ran.exited, ran.stderr[-500:])
        assert (await sandbox.run("print(1)")).stdout == "1\n"
    assert place.left_behind() == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"\x0a\x06\x0a\x04\xff\xfe\xfd\xfc", id="not-utf-8"),
        pytest.param(b"\x0a\x05\x0a\x03\xed\xa0\x80", id="half-a-surrogate"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", id="a-length-that-lies"),
        pytest.param(b"\xff" * 64, id="noise"),
    ],
)
async def test_requests_that_are_no_message(place: Place, request_bytes: bytes) -> None:
    """They are refused before anything is made of them; what is said of it tells nothing about the service."""
    async with place.service.ready() as sandbox:
        method = "/ollamesh.sandbox.v1.SandboxService/Execute"
        send: Any = sandbox.channel.unary_stream(method)
        call = send(request_bytes, timeout=TIMEOUT_S, metadata=sandbox.metadata)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            async for _ in call:
                pass
        assert refusal.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT}
        assert "/" not in (refusal.value.details() or "")
        assert (await still(sandbox)) == "1\n"


async def still(sandbox: Sandbox) -> str:
    return (await sandbox.run("print(1)")).stdout
