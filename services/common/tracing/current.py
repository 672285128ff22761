"""The span that is under way here, and its children.

It is a matter of the context, which every task has its own copy of. It is set once for each call and task and never set
back: a token of a ContextVar cannot be given back where a generator was closed by another task, which is how
OpenTelemetry's own instrumentation comes to "Failed to detach context". Where a block has a span, `within` sets it back,
and no such block may hold a `yield` of a stream.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar

from services.common.errors import MeshError
from services.common.tracing.names import CANCELLED, ERROR
from services.common.tracing.spans import Remote, Shape, Span

Current = Span | Remote | None

_current: ContextVar[Current] = ContextVar("span", default=None)


def current() -> Current:
    """What is under way, recorded or not; None where nobody traces."""
    return _current.get()


def recorded() -> Span | None:
    """The span under way, if it is recorded."""
    found = _current.get()
    return found if isinstance(found, Span) else None


def enter(span: Current) -> None:
    """From here on, to the end of this call or task, `span` is under way."""
    _current.set(span)


def bare_context(span: Current) -> Context:
    """A context that holds nothing but a span: for tasks that are nobody's call, and must not hold a caller's token."""
    context = Context()
    context.run(_current.set, span)
    return context


@contextmanager
def within(span: Current) -> Iterator[None]:
    """In this block `span` is under way; it is ended elsewhere."""
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def inner(shape: Shape) -> Iterator[Span | None]:
    """A child of what is under way, for as long as the block lasts; None if nobody records that."""
    parent = _current.get()
    if not isinstance(parent, Span):
        yield None
        return
    span = parent.child(shape)
    token = _current.set(span)
    try:
        yield span
    except BaseException as error:
        ended_by(span, error)
        raise
    finally:
        _current.reset(token)
        span.end()


def noted(event: str, *, to: Current = None) -> None:
    """Something happened to what is under way; it may have to do with another span from now on."""
    if (span := recorded()) is not None:
        span.event(event)
        if to is not None:
            span.link(to)


def note(reason: str) -> None:
    """What is under way is answered with a failure, for `reason`; whether that is its own is not said here."""
    if (span := recorded()) is not None:
        span.set({ERROR: reason})


def ended_by(span: Span, error: BaseException) -> None:
    """What a span says of a failure: its reason, or the name of its class; never its words. To be left is no failure."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.set({ERROR: CANCELLED})
    else:
        span.fail(error.reason if isinstance(error, MeshError) else type(error).__name__)
