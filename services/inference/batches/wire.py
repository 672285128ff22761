"""Batches: domain in, protobuf out."""

from uuid import UUID

from ollamesh.inference.v1 import batch_pb2 as pb

from services.common.errors import InvalidRequest, Violation
from services.inference.batches.ports import Record, Result
from services.inference.core.batches import State
from services.inference.errors import BatchNotFound
from services.inference.wire.requests import next_page_token, page_token

_STATES = {
    State.PENDING: pb.BATCH_STATE_PENDING,
    State.RUNNING: pb.BATCH_STATE_RUNNING,
    State.DONE: pb.BATCH_STATE_DONE,
    State.CANCELLED: pb.BATCH_STATE_CANCELLED,
}


def batch(record: Record) -> pb.Batch:
    return pb.Batch(
        batch_id=str(record.batch_id),
        display_name=record.display_name,
        state=_STATES[record.state],
        item_count=record.item_count,
        succeeded_count=record.succeeded_count,
        failed_count=record.failed_count,
        create_time=record.create_time,
        start_time=record.start_time,
        end_time=record.end_time,
        due_time=record.due_time,
        expire_time=record.expire_time,
    )


def batch_id(text: str) -> UUID:
    """Raises BatchNotFound: there is none of a name that is none of ours."""
    try:
        return UUID(text)
    except ValueError:
        raise BatchNotFound from None


def result(found: Result) -> bytes:
    """Return the response that tells a result: its sequence, and then the rest as it is kept.

    Protobuf reads what stands one after the other as one message (protobuf.dev/programming-guides/encoding).
    """
    return pb.StreamBatchResultsResponse(sequence=found.sequence).SerializeToString() + found.payload


def position(token: str) -> int | None:
    """Return where a page goes on. Raises InvalidRequest."""
    key = page_token(token)
    if key and not (key.isascii() and key.isdigit() and len(key) < 19):
        raise InvalidRequest([Violation("page_token", "is not one of ours", "page_token")])
    return int(key) if key else None


def token(record: Record) -> str:
    """Return the token of the page that follows `record`."""
    return next_page_token(str(record.position))
