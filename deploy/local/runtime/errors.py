"""Everything the runtime refuses or fails at, in Ollama's words and with its status.

Before the first byte of a reply the status is the HTTP status; after it, the text alone goes out as an
`{"error": ...}` line. Clients compare these texts, so they are copied, two spaces and all.
"""

import json
from typing import ClassVar


class WireError(Exception):
    """`str(error)` is what the caller reads; raising is the whole act."""

    status: ClassVar[int] = 500


class MissingBodyError(WireError):
    status = 400

    def __init__(self) -> None:
        super().__init__("missing request body")


class MalformedBodyError(WireError):
    status = 400


class ModelRequiredError(WireError):
    status = 400

    def __init__(self) -> None:
        super().__init__("model is required")


class ModelNotFoundError(WireError):
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}' not found")


class InvalidNameError(WireError):
    status = 400

    def __init__(self, role: str, name: str) -> None:
        super().__init__(f"{role} {json.dumps(name)} is invalid")


class UnsupportedError(WireError):
    """The model cannot think, chat or generate; `name` as the caller wrote it."""

    status = 400

    def __init__(self, name: str, ability: str) -> None:
        super().__init__(f"{json.dumps(name)} does not support {ability}")


class MissingCapabilityError(WireError):
    """The same for what Ollama finds out later, and words with the model's full name."""

    status = 400

    def __init__(self, full_name: str, capability: str) -> None:
        super().__init__(f"{full_name} does not support {capability}")


class NoEmbeddingsError(WireError):
    status = 501

    def __init__(self) -> None:
        super().__init__("This server does not support embeddings. Start it with `--embeddings`")


class RawConflictError(WireError):
    status = 400

    def __init__(self) -> None:
        super().__init__("raw mode does not support template, system, or context")


class OptionTypeError(WireError):
    def __init__(self, name: str, wanted: str) -> None:
        super().__init__(f"option {json.dumps(name)} must be {wanted}")


class InvalidFormatError(WireError):
    def __init__(self, raw: bytes) -> None:
        quoted = json.dumps(raw.decode())
        super().__init__(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


class InvalidInputError(WireError):
    status = 400

    def __init__(self) -> None:
        super().__init__("invalid input type")


class InputTooLongError(WireError):
    status = 400

    def __init__(self) -> None:
        super().__init__("the input length exceeds the context length")


class QueueFullError(WireError):
    status = 503

    def __init__(self) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")


class LoadFailedError(WireError):
    def __init__(self, why: str) -> None:
        super().__init__(f"llama-server process has terminated: {why}")


class LoadTimeoutError(WireError):
    def __init__(self) -> None:
        super().__init__("timed out waiting for llama-server to start")


class RunnerLostError(WireError):
    def __init__(self) -> None:
        super().__init__(
            "model runner has unexpectedly stopped, this may be due to resource limitations or an internal "
            "error, check ollama server logs for details"
        )


class RunnerFailedError(WireError):
    """llama.cpp failed; the text is its own."""


class RunnerRefusedError(WireError):
    """llama.cpp said no to this one request, most often because its schema cannot become a grammar."""

    status = 400


class InvalidDigestError(WireError):
    status = 400

    def __init__(self) -> None:
        super().__init__("invalid digest format")


class PullError(WireError):
    def __init__(self) -> None:
        super().__init__("pull model manifest: file does not exist")


class ReadOnlyError(WireError):
    """The runtime's models are the stack's; they change by installing, not over the wire."""

    status = 400

    def __init__(self, verb: str) -> None:
        super().__init__(f"the embedded runtime does not {verb} models")
