"""Where traces begin, or go on, in a process."""

from random import random

from services.common.tracing.spans import Remote, Send, Shape, Span, new_id


class Tracer:
    """Begins the spans that have no parent in this process. The others are their children.

    What comes with a decision follows it: a trace is recorded everywhere or nowhere. `percent` is for what does not.
    """

    def __init__(self, send: Send, *, percent: float = 100.0) -> None:
        self._send, self._share = send, percent / 100.0

    def begin(
        self, shape: Shape, parent: Remote | None = None, *, started_ns: int | None = None
    ) -> Span | Remote:
        """A span of this process; a Remote if its trace is not recorded."""
        if parent is None:
            trace_id = new_id(16)
            if random() >= self._share:  # noqa: S311 - Not a secret.
                return Remote(trace_id, new_id(8), is_sampled=False)
            return Span(self._send, shape, trace_id, started_ns=started_ns)
        if not parent.is_sampled:
            return parent
        return Span(
            self._send,
            shape,
            parent.trace_id,
            parent=parent.span_id,
            is_parent_remote=True,
            state=parent.state,
            started_ns=started_ns,
        )
