"""What requests of administrators have in common: who asks, whether they asked before, and pages."""

import base64
import binascii

from google.protobuf.message import Message
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER

from services.auth.core.identity import Role
from services.auth.core.people import Actor, Asked
from services.auth.core.request_digest import RequestDigest
from services.auth.people_ports import PageRequest
from services.common.errors import InvalidRequest, Violation
from services.common.grpc.caller import caller

PAGE_SIZE = 20
ROLES = {ROLE_USER: Role.USER, ROLE_ADMIN: Role.ADMIN}
ROLE_NUMBERS = {role: number for number, role in ROLES.items()}


def actor() -> Actor:
    """Who is calling, with the role that their token says, which may be less than their own."""
    known = caller()
    return Actor(
        user_id=known.user_id,
        role=Role(known.role.value),
        organization_id=known.organization_id,
        project_id=known.project_id,
    )


def asked(digest: RequestDigest, request: Message, request_id: str) -> Asked | None:
    """How the caller has named the request, if they have."""
    if not request_id:
        return None
    body = request.SerializeToString(deterministic=True)
    return Asked(request_id=request_id, body_digest=digest.of(request.DESCRIPTOR.full_name, body))


def page(page_size: int, page_token: str) -> PageRequest:
    """Raises InvalidRequest for a token that is not one of ours."""
    try:
        after = base64.b64decode(page_token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):  # The latter for what is no ASCII or no UTF-8.
        raise InvalidRequest([Violation("page_token", "is not one of ours", "page_token")]) from None
    if "\0" in after:
        raise InvalidRequest([Violation("page_token", "is not one of ours", "page_token")])
    return PageRequest(after, page_size or PAGE_SIZE)


def next_page_token(next_after: str) -> str:
    return base64.urlsafe_b64encode(next_after.encode()).decode()
