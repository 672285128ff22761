"""What the gateway does for one request, as spans: the wait for a slot, and what an instance made of it.

Streams are made in tasks that are nobody's call, and slots are used in tasks of the engine; so the span of the call that
asked travels with the work, and not by the context.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from services.common.tracing.current import Current, ended_by, within
from services.common.tracing.encode import Value
from services.common.tracing.ids import exemplar_of
from services.common.tracing.spans import Kind, Shape, Span
from services.inference.ports import EndReason, Outcome, Trouble

PROVIDER = "ollama"
SHAPES_MAX = 1024
WAIT_NS_MIN = 1_000_000
_WAIT = Shape("queue", Kind.INTERNAL)
_REASONS = {reason: (reason.name.lower(),) for reason in EndReason}


class SlotTrace:
    """One use of a slot, on behalf of those who asked for it together: a child of the first, and linked to the others.

    A wait of less than a millisecond is none, and no span of its own.
    """

    __slots__ = ("_asked_ns", "_operation", "_others", "_parent")

    def __init__(self, operation: str, asked_by: Sequence[Current]) -> None:
        recorded = [span for span in asked_by if isinstance(span, Span)]
        self._operation = operation
        self._parent = recorded[0] if recorded else None
        self._others = recorded[1:]
        self._asked_ns = time.time_ns() if recorded else 0  # 0: it waits no more.

    def exemplar(self) -> dict[str, str] | None:
        """What leads from a histogram to the call."""
        return None if self._parent is None else exemplar_of(self._parent.trace_id, self._parent.span_id)

    @contextmanager
    def asking(self, model: str, instance: str) -> Iterator[Span | None]:
        """The wait is over, and an instance is asked for as long as the block lasts."""
        if self._parent is None:
            yield None
            return
        span = self._parent.child(_asked(self._operation, model, instance))
        span.set({"ollamesh.queue_s": self._waited(self._parent) / 1e9})
        for other in self._others:
            span.link(other)
        with within(span):
            try:
                yield span
            except Trouble as trouble:
                span.fail(trouble.fault.name)
                raise
            except BaseException as error:
                ended_by(span, error)
                raise
            finally:
                span.end()

    def fail(self, error: Exception) -> None:
        """It did not come to a slot, or had one and lost it."""
        if self._parent is not None and self._asked_ns:
            wait = self._parent.child(_WAIT, started_ns=self._asked_ns)
            self._asked_ns = 0
            ended_by(wait, error)
            wait.end()

    def _waited(self, parent: Span) -> int:
        """How many nanoseconds it took to get a slot, which is told if it was a wait. The next one does not wait."""
        if not self._asked_ns:
            return 0
        now_ns, asked_ns, self._asked_ns = time.time_ns(), self._asked_ns, 0
        if now_ns - asked_ns >= WAIT_NS_MIN:
            parent.child(_WAIT, started_ns=asked_ns).end(now_ns)
        return now_ns - asked_ns


def told(
    span: Span, outcome: Outcome | None, *, first_token_at_s: float | None, asked_at_s: float | None
) -> None:
    """What an instance said of a completion. Times are of the event loop's clock."""
    if first_token_at_s is not None and asked_at_s is not None:
        now_s = asyncio.get_running_loop().time()
        span.event("first_token", at_ns=time.time_ns() - round((now_s - first_token_at_s) * 1e9))
        span.set({"gen_ai.response.time_to_first_chunk": first_token_at_s - asked_at_s})
    if outcome is None:
        return
    usage: dict[str, Value] = {
        "gen_ai.usage.input_tokens": outcome.prompt_token_count,
        "gen_ai.usage.output_tokens": outcome.output_token_count,
        "gen_ai.response.finish_reasons": _REASONS[outcome.reason],
        "ollamesh.prompt_s": outcome.prompt_s,
        "ollamesh.output_s": outcome.output_s,
    }
    if outcome.load_s > 0:
        usage["ollamesh.load_s"] = outcome.load_s
    span.set(usage)


@lru_cache(SHAPES_MAX)
def _asked(operation: str, model: str, instance: str) -> Shape:
    """Models and instances are those of the fleet: nobody can make up more of them."""
    host, _, port = instance.rpartition(":")
    about: dict[str, Value] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "server.address": host.strip("[]") or instance,
        "ollamesh.instance": instance,
    }
    if port.isdigit():
        about["server.port"] = int(port)
    return Shape(f"{operation} {model}", Kind.CLIENT, about)
