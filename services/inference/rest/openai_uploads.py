"""A file as browsers and OpenAI's clients send it: multipart/form-data, taken apart as it arrives."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.common.errors import InvalidRequest
from services.inference.rest.wire import wrong

PART_BYTES = 1024 * 1024  # Of what is kept.
PURPOSE_BYTES_MAX = 256
NAME_BYTES_MAX = 256


class Upload:
    """Feed it bytes; then ask what they were."""

    def __init__(self, content_type: str, *, bytes_max: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise wrong("file", "must be sent as multipart/form-data")
        self._bytes_max = bytes_max
        self._name = ""
        self._header: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self._purpose = bytearray()
        self._parts: list[bytearray] = []
        self._is_over = False
        self._filename: str | None = None
        self.size_bytes = 0
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._head,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed() from error

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed() from error

    def whole(self) -> tuple[str, list[bytes]]:
        """Return the file's name and its bytes in parts. Raises InvalidRequest if something is missing."""
        if not self._is_over:
            raise _malformed()
        if self._filename is None:
            raise wrong("file", "is required", "missing_required_parameter")
        if bytes(self._purpose) != b"batch":
            raise wrong("purpose", "must be 'batch'", "invalid_value")
        return self._filename, [bytes(part) for part in self._parts]

    def _begin(self) -> None:
        self._name = ""

    def _head(self) -> None:
        name, value = (bytes(one) for one in self._header)
        self._header = bytearray(), bytearray()
        if name.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode(errors="replace")[:NAME_BYTES_MAX]
        if self._name == "file":
            self._filename = options.get(b"filename", b"").decode(errors="replace")[-NAME_BYTES_MAX:]

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "purpose":
            self._purpose += data[start : min(end, start + PURPOSE_BYTES_MAX - len(self._purpose))]
        if self._name != "file":  # There may be any number of others, so nothing of them is kept.
            return
        self.size_bytes += end - start
        if self.size_bytes > self._bytes_max:
            raise wrong("file", f"is larger than {self._bytes_max} bytes", "file_too_large")
        while start < end:
            if not self._parts or len(self._parts[-1]) == PART_BYTES:
                self._parts.append(bytearray())
            room = PART_BYTES - len(self._parts[-1])
            self._parts[-1] += data[start : min(end, start + room)]
            start += room

    def _end(self) -> None:
        self._is_over = True


def _malformed() -> InvalidRequest:
    return wrong("file", "is not whole and well-formed multipart/form-data")
