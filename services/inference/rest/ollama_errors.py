"""Failures in Ollama's own words, where it has words for them: its clients compare them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import InvalidRequest, MeshError
from services.inference.errors import (
    ContextTooLarge,
    ModelNotFound,
    ModelUnsuitable,
    QueueFull,
)
from services.inference.rest.ollama_replies import failed
from services.inference.rest.wire import texts

_VERBS = {"completion": "chat", "embedding": "embeddings"}


def refusal(error: MeshError) -> bytes:
    """Return the body of a failure."""
    return failed(text(error))


def line(error: MeshError) -> bytes:
    """Return the last line of a stream that failed."""
    return failed(text(error)) + b"\n"


@contextmanager
def of_generate() -> Iterator[None]:
    """What `chat` and `generate` both need has another name for each."""
    try:
        yield
    except ModelUnsuitable as error:
        if error.facts["capability"] != "completion":
            raise
        raise ModelUnsuitable(model=error.facts["model"], capability="generate") from None


def text(error: MeshError) -> str:
    match error:
        case InvalidRequest():
            return texts(error)
        case ModelNotFound():
            return f"model '{error.facts['model']}' not found"
        case ModelUnsuitable():
            ability = error.facts["capability"]
            return f"{json.dumps(error.facts['model'])} does not support {_VERBS.get(ability, ability)}"
        case ContextTooLarge():
            asked, allowed = (error.facts[name] for name in ("asked_token_count", "allowed_token_count"))
            return f"options.num_ctx: the model has a context of {allowed} tokens here, and {asked} were asked for"
        case QueueFull():
            return "server busy, please try again.  maximum pending requests exceeded"
        case _:
            return str(error)
