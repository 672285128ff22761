"""Failures in OpenAI's own shape, with its codes where it has one; elsewhere the code is our reason."""

from services.common.errors import InvalidRequest, MeshError, TokenExpired, TokenInvalid
from services.inference.errors import ContextTooLarge, ModelNotFound, ModelUnsuitable, QuotaExceeded
from services.inference.rest.bodies import encode
from services.inference.rest.refusals import status_of
from services.inference.rest.wire import texts

_TYPES = {429: "requests"}  # What there were too many of.


def refusal(error: MeshError) -> bytes:
    """Return the body of a failure."""
    return encode({"error": _error(error)})


def event(error: MeshError) -> bytes:
    """Return the last event of a stream that failed. OpenAI sends no [DONE] after it."""
    return b"data: " + refusal(error) + b"\n\n"


def _error(error: MeshError) -> dict[str, str | None]:
    param: str | None = None
    code: str | None = error.reason.lower()
    message = str(error)
    match error:
        case InvalidRequest():
            first = error.violations[0]
            param, code, message = first.field or None, _code(first.rule), texts(error)
        case ModelNotFound():
            message = f"The model `{error.facts['model']}` does not exist or you do not have access to it."
        case ModelUnsuitable():
            ability = error.facts["capability"]
            param, message = "model", f"The model `{error.facts['model']}` does not support {ability}."
        case QuotaExceeded() if error.facts["quota"].endswith("_per_day"):
            code = "insufficient_quota"
        case ContextTooLarge():
            code = "context_length_exceeded"
        case TokenInvalid() | TokenExpired():
            code = "invalid_api_key"
        case _:
            pass
    return {"message": message, "type": _type(status_of(error)), "param": param, "code": code}


def _type(status: int) -> str:
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _code(rule: str) -> str | None:
    """Our own rules have dotted names, which are no codes of OpenAI's."""
    return rule if rule and "." not in rule else None
