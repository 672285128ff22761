"""Readers of responses: a stream of JSON lines into a sink, or a whole body."""

import re

import msgspec

from services.common.errors import InvalidRequest, Violation
from services.inference.adapters.answers import NOT_OF_THE_SHAPE, Failure, Line, outcome, piece
from services.inference.adapters.connection import Phase
from services.inference.errors import ModelNotFound, ModelUnsuitable
from services.inference.ports import Fault, Sink, Trouble

LINE_BYTES_MAX = 4 * 1024 * 1024
ERROR_BYTES_MAX = 64 * 1024
# What Ollama says of itself. Its other words may quote the request or the answer, and go nowhere.
_KNOWN = re.compile(
    r"server busy|out of memory|requires more system memory|runner process has terminated"
    r"|timed out waiting for llama runner to start|error loading model|no such file|context canceled"
    r"|request canceled|unable to load model|not found|unauthorized"
)
# Status 500, and yet the request's fault: any instance would say the same.
_UNPROCESSABLE = re.compile(
    r"invalid JSON schema in format|failed to parse grammar|Failed to create new sequence"
    r"|failed to process inputs|no input provided"
)
_UNSUPPORTED = re.compile(
    r"does not support (chat|generate|completion|embeddings?|thinking|tools|vision|insert)"
)

_decode_line = msgspec.json.Decoder(Line).decode
_decode_lines = msgspec.json.Decoder(Line).decode_lines
_decode_failure = msgspec.json.Decoder(Failure).decode


class StreamReader:
    """Feeds a sink from a stream of JSON lines. `done` makes it complete, and nothing else does.

    Lines that arrive together are decoded together and told as one piece: what is done for each token here is done
    some hundred thousand times a second.
    """

    def __init__(self, sink: Sink) -> None:
        self.phase = Phase.SILENT
        self._sink = sink
        self.status = 0
        self._rest = bytearray()  # The beginning of a line.
        self._error_body = bytearray()
        self._trouble: Trouble | None = None
        self._given_up = False

    def head(self, status: int) -> None:
        self.status = status

    def feed(self, data: bytes) -> bool:
        if self.status != 200:
            self._error_body += data
            return len(self._error_body) <= ERROR_BYTES_MAX
        if self.phase is Phase.COMPLETE:
            return True
        end = data.rfind(b"\n") + 1
        whole = data[:end]
        if end and self._rest:
            whole = bytes(self._rest) + whole
            self._rest.clear()
        self._rest += data[end:]
        if len(self._rest) > LINE_BYTES_MAX:
            return self._broken("a line without end")
        return not end or self._take(whole)

    def check(self, model: str | None) -> None:
        """Raise what went wrong, if anything did. A sink that wanted no more is not wrong."""
        if self.status != 200:
            raise refusal(self.status, bytes(self._error_body), model)
        if self._trouble is not None:
            raise self._trouble
        if self.phase is not Phase.COMPLETE and not self._given_up:
            raise Trouble(Fault.BROKEN, "the stream ended before it was done")

    def _take(self, whole: bytes) -> bool:
        """Take whole lines, up to the first that ends the answer or is wrong."""
        try:
            lines, malformed = _decode_lines(whole), False
        except NOT_OF_THE_SHAPE:
            lines, malformed = _well_formed(whole)
        ending: Line | None = None
        for number, line in enumerate(lines):
            if line.done or line.error is not None:
                ending, malformed = line, False  # Whatever follows is not looked at.
                del lines[number + (line.error is None) :]
                break
        if not self._write(lines):
            return False
        if malformed:
            return self._broken("a malformed line")
        if ending is None:
            return True
        if ending.error is not None:
            return self._broken(f"it reports an error{known_words(ending.error)}")
        self.phase = Phase.COMPLETE
        self._sink.finish(outcome(ending))
        return True

    def _write(self, lines: list[Line]) -> bool:
        for together in ([line] for line in lines) if self._sink.by_token else (lines,):
            if (found := piece(together)) is None:
                continue
            self.phase = Phase.FLOWING
            if not self._sink.write(found):
                self._given_up = True
                return False
        return True

    def _broken(self, detail: str) -> bool:
        self._trouble = Trouble(Fault.BROKEN, detail)
        return False


class WholeReader:
    """Keeps a body of at most `bytes_max`."""

    def __init__(self, *, bytes_max: int) -> None:
        self.phase = Phase.SILENT
        self._bytes_max = bytes_max
        self.status = 0
        self._body = bytearray()

    def head(self, status: int) -> None:
        self.status = status

    def feed(self, data: bytes) -> bool:
        self.phase = Phase.FLOWING
        self._body += data
        return len(self._body) <= self._bytes_max

    def body(self, model: str | None) -> bytes:
        """Return the body, or raise why there is none. `model` is what was asked about, if anything."""
        self.check(model)
        return bytes(self._body)

    def check(self, model: str | None) -> None:
        """Raise what went wrong, if anything did."""
        if len(self._body) > self._bytes_max:
            raise Trouble(Fault.BROKEN, "an answer without end")
        if self.status != 200:
            raise refusal(self.status, bytes(self._body), model)


def _well_formed(text: bytes) -> tuple[list[Line], bool]:
    """Return the lines before the first malformed one, and whether there is one."""
    found: list[Line] = []
    for line in filter(None, text.split(b"\n")):
        try:
            found.append(_decode_line(line))
        except NOT_OF_THE_SHAPE:
            return found, True
    return found, False


def known_words(text: str) -> str:
    """Return what may be told of a server's words, for the log: those known to quote nobody."""
    found = _KNOWN.search(text)
    return f": {found[0]}" if found else ""


def refusal(status: int, body: bytes, model: str | None) -> Exception:
    """Return what a status other than 200 means: the request's fault, or the instance's. A request about no
    model cannot be at fault.

    Ollama's own words are matched where they alone tell two refusals apart. They go no further: what a
    server says of a request may quote it.
    """
    try:
        words = _decode_failure(body).error
    except NOT_OF_THE_SHAPE:
        words = ""
    if model is not None and status == 500 and _UNPROCESSABLE.search(words):
        return _refused()
    if model is None or status not in {400, 404}:
        return Trouble(Fault.BROKEN, f"status {status}{known_words(words)}")
    if status == 404:
        return ModelNotFound(model=model)
    if (found := _UNSUPPORTED.search(words)) is not None:
        return ModelUnsuitable(model=model, capability=found[1])
    if "exceeds the context length" in words:
        return InvalidRequest([Violation("", "is longer than the model's context", "model.context")])
    return _refused()


def _refused() -> InvalidRequest:
    return InvalidRequest([Violation("", "the model's instance refuses the request", "model.request")])
