"""An execution as spans, told at its end: the wait for a place, the wait for a jail, and the program.

What a program is, what it reads and what it writes is not told.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import lru_cache

from services.common.errors import MeshError
from services.common.tracing.current import ended_by, recorded
from services.common.tracing.encode import Value
from services.common.tracing.spans import Kind, Shape
from services.sandbox.execution import Execution, Exited

_QUEUE, _JAIL, _PROGRAM = (Shape(name, Kind.INTERNAL) for name in ("queue", "jail", "program"))
SHAPES_MAX = 256


def execution_ended(execution: Execution, *, placed_s: float | None) -> None:
    """It is over, just now. `placed_s` is when it got its place, by the event loop's clock, if it did."""
    if (parent := recorded()) is None:
        return
    now_s, now_ns = asyncio.get_running_loop().time(), time.time_ns()

    def at(moment_s: float) -> int:
        return now_ns - round((now_s - moment_s) * 1e9)

    where = execution.where
    span = parent.child(_execution(where.engine, where.profile), started_ns=at(execution.created_s))
    steps = [execution.created_s, placed_s]
    if execution.has_begun:
        steps += [execution.began_s, max(execution.ended_s, execution.began_s)]
    for shape, began_s, ended_s in zip((_QUEUE, _JAIL, _PROGRAM), steps, [*steps[1:], None], strict=False):
        if began_s is not None:
            span.child(shape, started_ns=at(began_s)).end(now_ns if ended_s is None else at(ended_s))
        if ended_s is None:
            break
    span.set({"ollamesh.execution.id": execution.execution_id, **_said(execution.result)})
    if isinstance(execution.result, MeshError):
        ended_by(span, execution.result)
    span.end(now_ns)


def _said(result: Exited | MeshError | None) -> Mapping[str, Value]:
    if not isinstance(result, Exited):
        return {}
    said: dict[str, Value] = {
        "ollamesh.sandbox.outcome": result.verdict.outcome.name.lower(),
        "ollamesh.sandbox.cpu_s": result.usage.cpu_s,
        "ollamesh.sandbox.peak_memory_bytes": result.usage.peak_memory_bytes,
    }
    if result.verdict.exit_code is not None:
        said["process.exit.code"] = result.verdict.exit_code
    return said


@lru_cache(SHAPES_MAX)
def _execution(engine: str, profile: str) -> Shape:
    return Shape(
        "sandbox_execution",
        Kind.INTERNAL,
        {"ollamesh.sandbox.engine": engine, "ollamesh.sandbox.profile": profile},
    )
