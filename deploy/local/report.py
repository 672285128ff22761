"""What `status` and `doctor` look like on a terminal."""

import time
from collections.abc import Iterable, Sequence

from deploy.local.finding import Check
from deploy.local.stack import PartStatus, Status

HEADINGS = ("part", "state", "port", "pid", "health", "MB", "restarts", "for")
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400


def status_table(status: Status, *, now: float | None = None) -> Iterable[str]:
    """The lines to print."""
    if not status.running:
        yield f"not running (home: {status.home}); start it with `make up`"
        return
    rows = [HEADINGS, *(_row(part, time.time() if now is None else now) for part in status.parts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    edges = " and ".join(filter(None, (status.edge, status.edge_tls)))
    yield f"{'ready' if status.ready else 'NOT READY'} at {edges}, models: {status.model_source}"
    if status.certificates_until is not None:
        left_s = status.certificates_until - (time.time() if now is None else now)
        yield f"certificates: good for {_duration(left_s)}" if left_s > 0 else "certificates: EXPIRED"
    yield (
        f"memory: {_megabytes(status.total_rss_bytes)} MB ({status.memory_measure}), with the supervisor "
        f"(pid {status.supervisor_pid}); home: {status.home}"
    )


def up_lines(status: Status, *, was_up: bool, observes: bool) -> Iterable[str]:
    """What to say when the stack is up."""
    yield f"{'already up' if was_up else 'up'}: {status.edge}"
    ports = {part.name: part.port for part in status.parts}
    for name in ("prometheus", "alertmanager"):
        if name in ports:
            yield f"{name}: http://127.0.0.1:{ports[name]}"
    if observes and "prometheus" not in ports:
        yield "it was started without Prometheus; to have it, run `make down`, then `make up OBSERVE=1`"


def check_lines(check: Check) -> Iterable[str]:
    yield f"{'ok ' if check.ok else 'BAD'}  {check.name:<10}  {check.finding}"
    if check.mend:
        yield f"     {'':<10}  run: {check.mend}"


def _row(part: PartStatus, now: float) -> Sequence[str]:
    optional = (str(part.port or "-"), str(part.pid or "-"))
    since = _duration(now - part.since)
    return (
        part.name,
        part.state,
        *optional,
        part.health,
        _megabytes(part.rss_bytes),
        str(part.restarts),
        since,
    )


def _megabytes(size_bytes: int) -> str:
    return str(round(size_bytes / 2**20))


def _duration(seconds: float) -> str:
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    return f"{seconds / HOUR_S:.0f} h" if seconds < DAY_S else f"{seconds / DAY_S:.0f} d"
