"""The lines of a batch's file: OpenAI's shape, as far as it is plain, or ours, which says everything."""

import json
from collections.abc import Iterable, Mapping

from google.protobuf.json_format import ParseDict, ParseError
from ollamesh.client.batches import BatchItem

ROLES = {
    "system": "ROLE_SYSTEM",
    "developer": "ROLE_SYSTEM",
    "user": "ROLE_USER",
    "assistant": "ROLE_ASSISTANT",
}
# OpenAI's names for how to sample, and ours.
OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_tokens": "output_token_count_max",
    "max_completion_tokens": "output_token_count_max",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
IGNORED = ("stream", "user", "metadata")  # They mean nothing here.
Json = Mapping[str, object]


class BadLine(Exception):
    """What is wrong with a line of the file."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(why)
        self.number = number


def items_of(lines: Iterable[str]) -> list[BatchItem]:
    """Read items, one a line; blank lines count for nothing. Raises BadLine."""
    items = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                items.append(_item(json.loads(line)))
            except (ValueError, TypeError, ParseError) as error:
                raise BadLine(number, str(error)) from None
    if not items:
        raise BadLine(1, "there are no requests")
    return items


def _item(line: object) -> BatchItem:
    match line:
        case {"url": str(url), "body": dict(body), **more}:
            made: Json = {"custom_id": more.get("custom_id", ""), **_request(url, body)}
        case dict():
            made = line
        case _:
            raise ValueError("a line is a JSON object")
    return ParseDict(dict(made), BatchItem())


def _request(url: str, body: Json) -> Json:
    """A body of OpenAI's as the JSON of our request."""
    rest = dict(body)
    options = {ours: rest.pop(theirs) for theirs, ours in OPTIONS.items() if theirs in rest}
    if "stop" in rest:
        stop = rest.pop("stop")
        options["stop"] = [stop] if isinstance(stop, str) else stop
    request: dict[str, object] = {"options": options, "model": rest.pop("model", "")}
    for name in IGNORED:
        rest.pop(name, None)
    match url:
        case "/v1/chat/completions":
            kind, request["messages"] = "chat", _messages(rest.pop("messages", None))
        case "/v1/completions":
            kind, request["prompt"] = "generate", rest.pop("prompt", None)
        case _:
            raise ValueError("url must be /v1/chat/completions or /v1/completions")
    if rest:
        left = ", ".join(sorted(rest))
        raise ValueError(f"body has what such a line cannot say: {left}; use a `{kind}` line for that")
    return {kind: request}


def _messages(messages: object) -> list[Json]:
    if not isinstance(messages, list):
        raise ValueError("body.messages must be a list")  # noqa: TRY004 - Of a file, not of a program.
    made: list[Json] = []
    for place, message in enumerate(messages):
        match message:
            case {"role": str(role), "content": str(content), **more} if role in ROLES and not more:
                made.append({"role": ROLES[role], "content": content})
            case _:
                raise ValueError(
                    f"body.messages[{place}] must be a role and a text; use a `chat` line for more"
                )
    return made
