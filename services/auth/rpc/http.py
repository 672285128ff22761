"""HTTP as these methods see it behind the edge: headers in the call's metadata, statuses in a header."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from google.api.httpbody_pb2 import HttpBody

from services.auth.core.browser import Site
from services.auth.core.oauth import NOT_STORED, OAuthError
from services.common.grpc.around import Context

JSON, HTML = "application/json", "text/html; charset=utf-8"
# The edge makes this the status of the HTTP response: gRPC has no way to say 401 with a body.
STATUS_HEADER = "x-http-status"
# Set by the edge, which takes every `x-ollamesh-` header away from callers: the origin that a browser asked.
ORIGIN_HEADER = "x-ollamesh-origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    body: bytes = field(repr=False)
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


def header(context: Context, name: str) -> list[str]:
    """All values of a request's header."""
    return [str(value) for key, value in context.invocation_metadata() or () if key == name]


def site(context: Context) -> Site:
    """Where the caller's browser is."""
    origins: Sequence[str] = header(context, ORIGIN_HEADER)
    return Site(origins[0] if len(origins) == 1 else "")


async def send(context: Context, reply: Reply) -> HttpBody:
    """Answer, and have nobody keep the answer."""
    status = ((STATUS_HEADER, str(reply.status)),) if reply.status != 200 else ()
    await context.send_initial_metadata((*NOT_STORED, *reply.headers, *status))
    return HttpBody(content_type=reply.content_type, data=reply.body)


def refused(error: OAuthError) -> Reply:
    return Reply(body=error.body, status=error.status, headers=tuple(error.headers.items()))
