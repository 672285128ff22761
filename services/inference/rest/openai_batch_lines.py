"""The lines of a batch's files: requests in, answers and failures out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from ollamesh.inference.v1 import batch_pb2 as pb
from ollamesh.inference.v1 import completion_pb2

from services.common.errors import InvalidRequest, Violation
from services.common.grpc.errors import CODES
from services.common.grpc.validation import check
from services.inference.batches.ports import Result
from services.inference.rest import openai_requests
from services.inference.rest.bodies import encode
from services.inference.rest.openai_replies import Chunks, Json
from services.inference.rest.openai_schemas import ChatCall, CompletionCall
from services.inference.rest.refusals import STATUSES
from services.inference.rest.whole import Whole
from services.inference.rest.wire import Names, messages_at, parsed, renamed, wrong

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ENDPOINTS = (CHAT, COMPLETION)
_OF_AN_ITEM: Names = [(re.compile(r"^(chat|generate)\."), "")]
_HTTP_OF_CODE = {CODES[kind].value[0]: status for kind, status in STATUSES.items()}
Delta = completion_pb2.CompletionEvent.Delta
Finished = completion_pb2.CompletionEvent.Finished


class Line(msgspec.Struct, kw_only=True):
    """A request."""

    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Read:
    """A line that was read, and what its fields are called in it."""

    item: pb.BatchItem
    names: Names


def read(line: bytes, *, endpoint: str) -> Read:
    """Return the request in a line. Raises InvalidRequest."""
    found = parsed(line, Line)
    if found.method != "POST" or found.url != endpoint:
        raise wrong("url", f"must be {endpoint}, as the batch's endpoint, and method POST", "invalid_url")
    with_body = _chat if endpoint == CHAT else _completion
    request = with_body(bytes(found.body))
    request.item.custom_id = found.custom_id
    try:
        check(request.item)
    except InvalidRequest as error:
        raise renamed(error, request.names) from None
    return request


def _chat(body: bytes) -> Read:
    call = parsed(body, ChatCall)
    _refuse_stream(call.stream)
    request, places = openai_requests.chat(call)
    names = [*_OF_AN_ITEM, *messages_at(places), *openai_requests.names(call), *openai_requests.NAMES]
    return Read(pb.BatchItem(chat=request), names)


def _completion(body: bytes) -> Read:
    call = parsed(body, CompletionCall)
    _refuse_stream(call.stream)
    item = pb.BatchItem(generate=openai_requests.completion(call))
    return Read(item, [*_OF_AN_ITEM, *openai_requests.NAMES])


def _refuse_stream(stream: bool | None) -> None:  # noqa: FBT001 - As it stands in the body.
    if stream:
        raise wrong("stream", "is not possible in a batch", openai_requests.UNSUPPORTED_VALUE)


def at_line(error: InvalidRequest, number: int) -> InvalidRequest:
    """Return the same complaints, about a line of the file."""
    return InvalidRequest(
        [
            Violation("input_file_id", f"line {number}: {one.field}: {one.description}", one.rule)
            if one.field
            else Violation("input_file_id", f"line {number}: {one.description}", one.rule)
            for one in error.violations
        ]
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """What names a completion that was told before."""

    stream_id: str
    model_digest: str


def writer(*, endpoint: str, created: datetime) -> Callable[[Result], bytes]:
    """Return what makes lines of results."""

    def write(result: Result) -> bytes:
        told = pb.StreamBatchResultsResponse.FromString(result.payload)
        name = f"{int(created.timestamp())}-{told.item_index}"
        line: dict[str, object] = {"id": f"batch_req_{name}", "custom_id": told.custom_id}
        if told.HasField("error"):
            line |= _failure(told.error, name)
        else:
            body = _completed(told.answer, _Told(name, told.answer.model_digest), endpoint, created)
            line |= {"response": _response(200, name, msgspec.Raw(body)), "error": None}
        return encode(line) + b"\n"

    return write


def _completed(
    answer: pb.StreamBatchResultsResponse.Answer, name: _Told, endpoint: str, created: datetime
) -> bytes:
    chunks = Chunks(
        name, answer.model, chat=endpoint == CHAT, usage=False, created_s=int(created.timestamp())
    )
    message, whole = answer.message, Whole()
    whole.add(
        Delta(
            text=message.content,
            thinking=message.thinking,
            tool_calls=message.tool_calls,
            logprobs=answer.logprobs,
        )
    )
    return chunks.whole(whole, Finished(reason=answer.finish_reason, usage=answer.usage))


def _failure(status: Status, name: str) -> Mapping[str, object]:
    """What no call was made for has no response."""
    info = ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    code = str(info.reason).lower()
    if code in {"batch_expired", "item_poisoned"}:
        return {"response": None, "error": {"code": code, "message": status.message}}
    http = _HTTP_OF_CODE.get(status.code, 500)
    kind = "server_error" if http >= 500 else "invalid_request_error"
    body: Json = {"error": {"message": status.message, "type": kind, "param": None, "code": code}}
    return {"response": _response(http, name, body), "error": None}


def _response(status: int, name: str, body: object) -> Json:
    return {"status_code": status, "request_id": f"req_{name}", "body": body}
