"""Failures as HTTP has them: a status, headers and the vendor's own JSON.

One around answers whatever a REST method raises before its first byte, whether it was refused by a check, by the
gateway or by a bug, so no handler has to. What fails later is told in the stream itself (`told_in_band`).
"""

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing

import grpc.aio
import structlog

from services.common.errors import Kind, MeshError, NotServed
from services.common.grpc.around import Around, Context, Rest
from services.inference.errors import QuotaExceeded
from services.inference.rest.bodies import JSON, first_part

log = structlog.get_logger(__name__)

STATUS_HEADER = "x-http-status"  # The edge makes it the response's status.
STATUSES: Mapping[Kind, int] = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.DENIED: 403,
    Kind.MISSING: 404,
    Kind.PRECONDITION: 409,
    Kind.DUPLICATE: 409,
    Kind.EXHAUSTED: 429,
    Kind.TIMED_OUT: 504,
    Kind.ABORTED: 500,
    Kind.CANCELLED: 499,
    Kind.UNAVAILABLE: 503,
    Kind.UNIMPLEMENTED: 501,
}


class Bug(MeshError):
    """What callers are told of a bug: nothing."""

    kind, reason = Kind.ABORTED, "INTERNAL"
    message = "internal error"


# Answers to HEAD have no body: one would be read as the beginning of the next answer.
BODILESS = frozenset({"CheckBlob"})
# A failure as a vendor's JSON, by the vendor.
Dialect = Callable[[MeshError], bytes]


def status_of(error: MeshError) -> int:
    return STATUSES[error.kind]


def refusals(dialects: Mapping[str, Dialect]) -> Around:
    """Answer the failures of the services that `dialects` names, each in its vendor's words."""

    async def around(method: str, context: Context, rest: Rest) -> object:
        dialect = dialects.get(method[1:].partition("/")[0])
        if dialect is None:
            return await rest()
        refused: MeshError
        try:
            return await rest()
        except grpc.aio.AbortError:
            raise
        except MeshError as error:
            refused = error
        except NotImplementedError:  # Raised by the generated base class of a servicer.
            refused = NotServed()
        except Exception:
            log.exception("bug", method=method)
            refused = Bug()
        await _refuse(method, context, dialect, refused)
        return None

    return around


async def _refuse(method: str, context: Context, dialect: Dialect, error: MeshError) -> None:
    status = status_of(error)
    headers = [(STATUS_HEADER, str(status))]
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(math.ceil(error.retry_after_s))))
    headers += _of_quota(error)
    if status == 401:
        headers.append(("www-authenticate", 'Bearer realm="ollamesh"'))
    log.info("rest_refused", method=method, status=status, reason=error.reason)
    await context.send_initial_metadata(headers)
    body = b"" if method.rpartition("/")[2] in BODILESS else dialect(error)
    await context.write(first_part(JSON, body))


def _of_quota(error: MeshError) -> list[tuple[str, str]]:
    """What a client reads of a budget that is spent, by the names that the edge uses for rates."""
    if not isinstance(error, QuotaExceeded) or "limit" not in error.facts:
        return []
    return [
        ("x-ratelimit-limit", error.facts["limit"]),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", str(math.ceil(error.retry_after_s or 0))),
    ]


async def told_in_band(
    parts: AsyncIterator[bytes], tell: Callable[[MeshError], bytes]
) -> AsyncIterator[bytes]:
    """Pass a stream on; if it fails once something was sent, end it with what `tell` makes of the failure.

    A status would not be seen: HTTP/1.1 has none at the end of a body.
    """
    begun = False
    async with aclosing(parts):  # type: ignore[type-var]
        try:
            async for one in parts:
                begun = True
                yield one
        except MeshError as error:
            if not begun:
                raise
            yield tell(error)
        except Exception:
            if not begun:
                raise
            log.exception("bug")
            yield tell(Bug())
