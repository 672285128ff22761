"""How a process logs: set up once, before anything else."""

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import TextIO

import structlog

from services.common.config import Environment
from services.common.logs.counts import COUNTS
from services.common.logs.flood import SUMMARY, FloodFilter
from services.common.logs.lines import Lines, of_library, with_failure
from services.common.logs.redaction import Redactor
from services.common.tracing.ids import trace_ids

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LEVEL = "OLLAMESH_LOG_LEVEL"

log = structlog.get_logger(__name__)
_redactor = Redactor()


def read_level(env: Environment) -> int:
    """From which level on events are logged."""
    given = env.text(LEVEL, "info").lower()
    if given not in LEVELS:
        env.reject(LEVEL, f"is none of {', '.join(LEVELS)}")
    return LEVELS.get(given, logging.INFO)


def configure_logging(service: str, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send every line, ours and the libraries', to standard error as one JSON object."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        trace_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        with_failure,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = BoundedHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, of_library],
            processors=[Lines(service, _redactor).render],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.raiseExceptions = False  # What cannot be written is counted by nobody, and told to nobody.
    logging.captureWarnings(capture=True)
    sys.excepthook, threading.excepthook = _uncaught, _uncaught_in_thread
    sys.unraisablehook = _unraisable
    atexit.register(handler.tell_rest)


def learn_secrets(values: Iterable[str]) -> None:
    """Take these out of all lines from now on, whatever they look like."""
    _redactor.learn(values)


def loop_failures_logged(loop: asyncio.AbstractEventLoop) -> None:
    """Log what nobody awaits as all else is: asyncio's own way quotes the exception and the objects around it."""
    loop.set_exception_handler(_in_loop)


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Leaves out what comes too often, and says so."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._flood = FloodFilter(counts=COUNTS)
        self._is_telling = False

    def handle(self, record: logging.LogRecord) -> bool:
        self.acquire()
        try:
            if is_told := self._flood.filter(record):
                self.emit(record)
            if not self._is_telling:
                self._tell(self._flood.untold())
        finally:
            self.release()
        return is_told

    def tell_rest(self) -> None:
        """At the end."""
        self._tell(self._flood.rest())

    def _tell(self, left_out: dict[str, int]) -> None:
        self._is_telling = True
        try:
            for event, count in left_out.items():
                log.warning(SUMMARY, of=event, count=count)
        finally:
            self._is_telling = False


def _uncaught(_kind: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
    log.critical("uncaught", exc_info=error)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    thread = "" if args.thread is None else args.thread.name
    log.critical("uncaught", exc_info=args.exc_value, thread=thread)


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    log.error("unraisable", exc_info=args.exc_value)


def _in_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    first, *_ = str(context.get("message", "")).split("\n", 1)
    log.error("loop_failure", said=first, exc_info=context.get("exception"))
