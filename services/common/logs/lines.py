"""Makes a line of an event: exceptions told, secrets taken out, size bounded."""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

from services.common.logs.counts import COUNTS, LogCounts
from services.common.logs.failures import told
from services.common.logs.flood import LEFT_OUT
from services.common.logs.redaction import REDACTED, Redactor

LINE_CHARS_MAX = 16_000
KEPT = ("service", "level", "timestamp", "event", "logger", "trace_id", "span_id", LEFT_OUT)
LIBRARY = "library_log"  # The event of what libraries say.

Event = MutableMapping[str, Any]


class Lines:
    """The last step of every line, ours and the libraries'."""

    def __init__(self, service: str, redactor: Redactor, *, counts: LogCounts = COUNTS) -> None:
        self._service, self._redactor, self._counts = service, redactor, counts

    def render(self, _logger: object, _method: str, event: Event) -> str:
        """A structlog processor."""
        record = event.pop("_record", None)
        event.pop("_from_structlog", None)
        if record is not None and (left_out := getattr(record, LEFT_OUT, None)):
            event[LEFT_OUT] = left_out
        level = str(event.get("level", "info"))
        self._counts.lines[level] = self._counts.lines.get(level, 0) + 1
        cleaned = {name: self._redactor.field(name, value) for name, value in event.items()}
        line = json.dumps({"service": self._service, **cleaned}, default=str)
        if REDACTED in line:
            self._counts.redacted_count += 1
        if len(line) <= LINE_CHARS_MAX:
            return line
        self._counts.cut_count += 1
        kept = {name: cleaned[name] for name in KEPT if name in cleaned}
        return json.dumps({"service": self._service, **kept, "cut_from_chars": len(line)}, default=str)


def with_failure(_logger: object, _method: str, event: Event) -> Event:
    """A structlog processor: put what may be told of an exception in place of the exception."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = told(error)
    event.pop("stack_info", None)
    return event


def of_library(_logger: object, _method: str, event: Event) -> Event:
    """A structlog processor, of records that are not ours: what is constant is told, what was put into it is not."""
    record: logging.LogRecord = event["_record"]
    first, *_ = str(record.msg).split("\n", 1)  # What follows quotes objects, such as asyncio's of tasks.
    event["event"], event["logger"], event["said"] = LIBRARY, record.name, first[:200]
    return event
