"""What requests have in common: who asks, whether they asked before, pages, and what is noted of deletions."""

import hashlib

from google.protobuf.message import Message

from services.agent.core.ids import Owner
from services.agent.ports import PageRequest, Retry
from services.common.audit import Action, Happened, Outcome
from services.common.errors import InvalidRequest, Violation
from services.common.grpc.caller import caller

PAGE_SIZE = 20
TOKEN_DIGITS_MAX = 18  # Of a position: what has more may not fit into the bigint that it is compared with.


def owner() -> Owner:
    return Owner(caller().organization_id, caller().user_id)


def asked_as(request: Message, request_id: str) -> Retry | None:
    """How the same request is known again: by its id, its method and its body."""
    if not request_id:
        return None
    body = request.DESCRIPTOR.full_name.encode() + request.SerializeToString(deterministic=True)
    return Retry(request_id=request_id, body_hash=hashlib.sha256(body).digest())


def page(size: int, token: str) -> PageRequest:
    """Raises InvalidRequest for a token that is not one of ours."""
    if token and not (token.isascii() and token.isdigit() and len(token) <= TOKEN_DIGITS_MAX):
        raise InvalidRequest([Violation("page_token", "is not one that was given out")])
    return PageRequest(size=size or PAGE_SIZE, after=int(token) if token else None)


def next_page_token(next_after: int | None) -> str:
    return "" if next_after is None else str(next_after)


def deletion(whose: Owner, name: str) -> Happened:
    """For the audit trail; it says nothing of what was deleted but its name."""
    return Happened(
        action=Action.DATA_DELETED,
        outcome=Outcome.ALLOWED,
        user_id=whose.user_id,
        organization_id=whose.organization_id,
        object=name,
    )
