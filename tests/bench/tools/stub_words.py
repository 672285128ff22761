"""What the Python stub says; stub_reply.c says the same in C, and one contract holds both to it."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

CREATED, CREATED_S = "2026-01-01T00:00:00Z", 1767225600
VECTOR = [round(0.01 * (column * 37 % 100) - 0.5, 6) for column in range(384)]
DETAILS = {
    "format": "gguf",
    "family": "stub",
    "families": ["stub"],
    "parameter_size": "0",
    "quantization_level": "F16",
}
SHOWN = {
    "template": "",
    "details": {"family": "stub"},
    "capabilities": ["completion"],
    "model_info": {"general.architecture": "stub", "stub.context_length": 4096},
}
OLLAMA, OPENAI = ("/api/chat", "/api/generate"), ("/v1/chat/completions", "/v1/completions")
_NO_CLOCK = b"~" + b"0" * 17
_PART = re.compile(r"-([nitw])(\d+)")

encode = msgspec.json.encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a model's name asks for: `stub-n100-i20000-t5000-w0`."""

    token_count: int
    interval_s: float
    first_s: float
    pad: str

    @classmethod
    def of(cls, model: str) -> "Scenario":
        parts: dict[str, int] = {}
        for letter, digits in _PART.findall(model):
            parts.setdefault(letter, int(digits))
        return cls(
            token_count=parts.get("n", 1),
            interval_s=parts.get("i", 0) / 1e6,
            first_s=parts.get("t", 0) / 1e6,
            pad="x" * parts.get("w", 0),
        )

    @property
    def last_s(self) -> float:
        """After what time the last token is due."""
        return self.first_s + max(0, self.token_count - 1) * self.interval_s


def token() -> bytes:
    return b"~%017d" % time.monotonic_ns()


class Words:
    """One completion, in its dialect."""

    def __init__(self, path: str, body: Mapping[str, object]) -> None:
        model = body["model"]
        if not isinstance(model, str):
            raise TypeError("model is not a string")
        self.model, self.scenario = model, Scenario.of(model)
        self._path, self._openai = path, path in OPENAI
        self._chat = path in {"/api/chat", "/v1/chat/completions"}
        self.streamed = bool(body.get("stream", not self._openai))
        options = body.get("stream_options")
        self._tells_usage = isinstance(options, dict) and options.get("include_usage") is True
        self.asks = bool(body.get("messages" if self._chat else "prompt"))
        self._keep_alive = body.get("keep_alive")
        text = f"{_NO_CLOCK.decode()} {self.scenario.pad}"
        self._before, self._after = _chunk(self._piece(text)).split(_NO_CLOCK)

    @property
    def head(self) -> bytes:
        kind = b"text/event-stream" if self._openai else b"application/x-ndjson"
        return b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n"

    def token(self) -> bytes:
        """Return the chunk of one token, as of now."""
        return self._before + token() + self._after

    def end(self) -> bytes:
        if not self._openai:
            return _chunk(encode(self._ollama("") | self._figures()) + b"\n") + b"0\r\n\r\n"
        stop: dict[str, object] = {"delta": {}} if self._chat else {"text": ""}
        pieces = [self._openai_piece([{"index": 0, **stop, "finish_reason": "stop"}])]
        if self._tells_usage:
            pieces.append(self._openai_piece([]) | self._usage())
        events = [_event(encode(piece)) for piece in pieces]
        return b"".join(map(_chunk, [*events, _event(b"[DONE]")])) + b"0\r\n\r\n"

    def whole(self) -> dict[str, object]:
        """Return the answer of a request that wants no stream, as of now."""
        text = "".join(f"{token().decode()} {self.scenario.pad}" for _ in range(self.scenario.token_count))
        if not self._openai:
            return self._ollama(text) | self._figures()
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        answer = self._openai_piece([{"index": 0, **said, "finish_reason": "stop"}]) | self._usage()
        return answer | {"object": "chat.completion" if self._chat else "text_completion"}

    def loaded(self) -> dict[str, object] | None:
        """Return what is said when nothing is asked; None where that is a mistake."""
        reason = "unload" if self._keep_alive == 0 else "load"
        return None if self._openai else self._ollama("") | {"done": True, "done_reason": reason}

    def _piece(self, text: str) -> bytes:
        if not self._openai:
            return encode(self._ollama(text) | {"done": False}) + b"\n"
        said = {"delta": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return _event(encode(self._openai_piece([{"index": 0, **said, "finish_reason": None}])))

    def _ollama(self, text: str) -> dict[str, object]:
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"response": text}
        return {"model": self.model, "created_at": CREATED, **said}

    def _openai_piece(self, choices: list[dict[str, object]]) -> dict[str, object]:
        name, kind = ("chatcmpl-0", "chat.completion.chunk") if self._chat else ("cmpl-0", "text_completion")
        return {
            "id": name,
            "object": kind,
            "created": CREATED_S,
            "model": self.model,
            "choices": choices,
        }

    def _figures(self) -> dict[str, object]:
        first_ns = int(self.scenario.first_s * 1e9)
        run_ns = int((self.scenario.last_s - self.scenario.first_s) * 1e9) + 1
        return {
            **({"context": []} if self._path == "/api/generate" else {}),
            "done": True,
            "done_reason": "stop",
            "total_duration": first_ns + run_ns,
            "load_duration": 0,
            "prompt_eval_count": 1,
            "prompt_eval_duration": first_ns + 1,
            "eval_count": self.scenario.token_count,
            "eval_duration": run_ns,
        }

    def _usage(self) -> dict[str, object]:
        count = self.scenario.token_count
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        return {"usage": usage}


def listing(models: Sequence[str], *, resident: bool) -> dict[str, object]:
    """Return what /api/tags says of the models, or /api/ps."""
    kept = {"size_vram": 1, "expires_at": "2100-01-01T00:00:00Z", "context_length": 4096}
    rows = [
        {"name": name, "model": name, "digest": "0" * 64, "size": 1, "modified_at": CREATED,
         "details": DETAILS, "capabilities": ["completion"], **(kept if resident else {})}
        for name in models
    ]  # fmt: skip
    return {"models": rows}


def openai_listing(models: Sequence[str]) -> dict[str, object]:
    rows = [{"id": name, "object": "model", "created": CREATED_S, "owned_by": "library"} for name in models]
    return {"object": "list", "data": rows}


def vectors(body: Mapping[str, object]) -> dict[str, object]:
    inputs = body.get("input", [])
    count = len(inputs) if isinstance(inputs, list) else 1
    return {
        "model": body.get("model"),
        "embeddings": [VECTOR] * count,
        "total_duration": 1,
        "load_duration": 0,
        "prompt_eval_count": count,
    }


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n" % len(content) + content + b"\r\n"
