"""How an Envoy that is to end leaves its callers: it tells each connection to go elsewhere, and finishes what it has.

Envoy itself ends at once when it is told to. So it is first asked, on its admin port, to drain: it goes on taking connections for
its drain time, says on each with the next answer that no more calls are taken there (GOAWAY), then listens no more.
"""

import asyncio

LOOPBACK = "127.0.0.1"
PATH = "/drain_listeners"  # To be allowed in admin.py.
POLL_S = 0.2
# Of who asks for the count, of Envoy's talk with itself, and of who scrapes.
NOT_CALLERS = {"admin", "keys", "metrics"}


async def left(admin_port: int, *, at_least_s: float, at_most_s: float) -> None:
    """Return when every call has ended, or the time is over. At once if Envoy cannot be asked."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        await _asked(admin_port, "POST", f"{PATH}?graceful")
        while (passed_s := loop.time() - began_s) < at_most_s:
            if passed_s >= at_least_s and await _calls(admin_port) == 0:
                return
            await asyncio.sleep(POLL_S)
    except OSError:
        return


async def _calls(admin_port: int) -> int:
    """Those that are under way."""
    answer = await _asked(admin_port, "GET", "/stats?filter=downstream_rq_active$")
    counts = dict(line.split(": ", 1) for line in answer.splitlines() if line.startswith("http."))
    return sum(int(count) for name, count in counts.items() if name.split(".")[1] not in NOT_CALLERS)


async def _asked(admin_port: int, method: str, path: str) -> str:
    reader, writer = await asyncio.open_connection(LOOPBACK, admin_port)
    try:
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        return (await reader.read()).decode(errors="replace")
    finally:
        writer.close()
