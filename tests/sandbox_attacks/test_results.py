"""Results are told by the program, and nobody vouches for them: whatever it writes there, it is bounded and it is bytes."""

import pytest

from tests.sandbox_attacks.case import wall
from tests.sandbox_attacks.place import Place
from tests.sandbox_attacks.remains import rss_bytes
from tests.service.sandbox_app import Ran

ENGINES = ("ns",)  # The descriptor is another elsewhere; who reads it is the same.
GROWTH_BYTES_MAX = 64 << 20
SHORT = wall(1)

# Writes whatever it is given to where results are told.
TELL = """
import os, struct
def tell(data):
    while data: data = data[os.write(255, data):]
def frame(mime, data):
    body = bytes([len(mime)]) + mime + struct.pack(">I", len(data)) + data
    return struct.pack(">I", len(body)) + body
"""


async def ran_in(place: Place, code: str) -> Ran:
    async with place.service.ready() as sandbox:
        ran = await sandbox.run(TELL + code)
        assert (await sandbox.run("print(1)")).stdout == "1\n"
    assert place.service.process.poll() is None
    return ran


def results(ran: Ran) -> list[dict[str, bytes]]:
    return [dict(event.result.data) for event in ran.events if event.HasField("result")]


async def test_a_frame_is_had(place: Place) -> None:
    """What follows is refused for what it is, and not because nothing arrives."""
    ran = await ran_in(place, "tell(frame(b'text/plain', b'mine'))")
    assert results(ran) == [{"text/plain": b"mine"}]
    assert not ran.exited.results_truncated


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("tell(os.urandom(1 << 16))", id="noise"),
        pytest.param("tell(b'\\xff' * 1000)", id="a-size-beyond-all"),
        pytest.param("tell(struct.pack('>I', 100) + b'x')", id="half-a-frame"),
        pytest.param("tell(struct.pack('>I', 0) * 1000)", id="empty-frames"),
        pytest.param("tell(frame(b'../../etc', b'x'))", id="a-type-that-is-none"),
        pytest.param("tell(frame(b'text/plain\\r\\nx: y', b'x'))", id="a-type-with-lines"),
        pytest.param("tell(struct.pack('>I', 9) + b'\\x0atext/plain')", id="a-type-beyond-its-frame"),
        pytest.param("for _ in range(100_000): tell(frame(b'text/plain', b'x'))", id="too-many"),
        pytest.param("for _ in range(64): tell(frame(b'image/png', bytes(1 << 20)))", id="too-much"),
        pytest.param("for _ in range(16):\n    if os.fork() == 0:\n        for _ in range(1000): tell(frame(b'text/plain', b'x' * 5000))\n        os._exit(0)\nfor _ in range(16): os.wait()", id="from-many-at-once"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_left_out_and_said_to_be(place: Place, code: str) -> None:
    before_bytes = rss_bytes(place.service.process.pid)
    ran = await ran_in(place, code)
    assert ran.outcome in {"OK", "OUTPUT_LIMIT"}, ran.stderr
    assert ran.exited.results_truncated
    assert sum(len(data) for result in results(ran) for data in result.values()) <= 16 << 20
    assert rss_bytes(place.service.process.pid) - before_bytes < GROWTH_BYTES_MAX


async def test_an_object_cannot_make_its_own_form_cost_more_than_its_limits(place: Place) -> None:
    """`_repr_html_` and the like are the program's code: they run in its jail, and within its limits."""
    for body, outcomes in (
        ("while True: pass", {"TIMEOUT"}),
        ("raise SystemExit(3)", {"ERROR", "OK"}),
        ("import os; os._exit(4)", {"ERROR"}),
        ("return 'x' * (1 << 28)", {"OK", "OOM", "ERROR", "TIMEOUT"}),  # On a slow machine.
        ("return 7", {"OK"}),
    ):
        code = f"class Trap:\n    def _repr_html_(self):\n        {body}\nTrap()"
        async with place.service.ready() as sandbox:
            ran = await sandbox.run(code, limits=SHORT)
        assert ran.outcome in outcomes, (body, ran.exited, ran.stderr[-500:])
