"""Model names, in Ollama's own grammar: `[host/][namespace/]model[:tag]`.

One model has many spellings, and a queue per spelling would be a queue too many (`mistral` beside
`mistral:latest`). Inside the service a model is known by its key; instances and callers see the
instance's own spelling. Why this grammar and not a narrower one: docs/decisions/0010-canonical-requests.md.
"""

import re

# The rule of every `model` field in the protos, where it is enforced for requests.
GRAMMAR = (
    r"^([A-Za-z0-9_][\w.:-]{0,349}/)?([A-Za-z0-9_][\w-]{0,79}/)?"
    r"[A-Za-z0-9_][\w.-]{0,79}(:[A-Za-z0-9_][\w.-]{0,79})?$"
)
_NAME = re.compile(GRAMMAR.strip("^$"), re.ASCII)

_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"
_DEFAULT_TAG = "latest"


def is_name(text: str) -> bool:
    """Whether a model can have this name."""
    return ".." not in text and _NAME.fullmatch(text) is not None


def key(name: str) -> str:
    """Return the one key of all spellings of a model: shortest, tagged, in lower case.

    Total: a name outside the grammar has a key too, which no model answers to. Ollama compares names
    without regard to case, so case is not kept.
    """
    path, _, last = name.lower().rpartition("/")
    model, _, tag = last.partition(":")
    if path in {_DEFAULT_NAMESPACE, f"{_DEFAULT_HOST}/{_DEFAULT_NAMESPACE}"}:
        path = ""
    path = path.removeprefix(f"{_DEFAULT_HOST}/")
    return f"{path}/{model}:{tag or _DEFAULT_TAG}".lstrip("/")
