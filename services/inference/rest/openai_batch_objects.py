"""Batches and files as OpenAI's API has them, and what their names mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from services.inference.batches.ports import FileRecord, Record
from services.inference.core.batches import State
from services.inference.errors import BatchNotFound, FileNotFound

WINDOW, PURPOSE, OUTPUT_PURPOSE = "24h", "batch", "batch_output"
_BATCH = re.compile(r"batch_([0-9a-f]{32})")
_INPUT = re.compile(r"file-([0-9a-f]{32})")
_OUTPUT = re.compile(r"file-(output|errors)-([0-9a-f]{32})")
_ITEM = re.compile(r"^items\[(\d+)\]\.(?:chat\.|generate\.)?(.*)$")
Json = dict[str, object]


class Origin(msgspec.Struct, kw_only=True):
    """What a batch was made of, beside its items."""

    input_file_id: str
    endpoint: str
    metadata: dict[str, str] | None = None

    def pack(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def of(cls, record: Record) -> "Origin":
        """Raises BatchNotFound: what was made over gRPC is none of OpenAI's."""
        if record.origin is None:
            raise BatchNotFound
        return msgspec.json.decode(record.origin, type=cls)


@dataclass(frozen=True, slots=True)
class Output:
    """One of the two files that a batch writes."""

    batch_id: UUID
    succeeded: bool

    @property
    def file_id(self) -> str:
        return f"file-{'output' if self.succeeded else 'errors'}-{self.batch_id.hex}"


def batch_id(text: str) -> UUID:
    """Raises BatchNotFound."""
    if (found := _BATCH.fullmatch(text)) is None:
        raise BatchNotFound
    return UUID(found[1])


def input_id(text: str) -> UUID:
    """Raises FileNotFound."""
    if (found := _INPUT.fullmatch(text)) is None:
        raise FileNotFound
    return UUID(found[1])


def output_of(file_id: str) -> Output | None:
    """Return which file of which batch has that name, if any could."""
    if (found := _OUTPUT.fullmatch(file_id)) is None:
        return None
    return Output(UUID(found[2]), found[1] == "output")


def item_field(field: str) -> tuple[int | None, str]:
    """Return which item a complaint is about, and which field of its request."""
    found = _ITEM.match(field)
    return (int(found[1]), found[2]) if found else (None, field)


def file(record: FileRecord) -> Json:
    return {
        "id": f"file-{record.file_id.hex}",
        "object": "file",
        "bytes": record.size_bytes,
        "created_at": _time(record.create_time),
        "expires_at": _time(record.expire_time),
        "filename": record.filename,
        "purpose": PURPOSE,
        "status": "processed",
        "status_details": None,
    }


def output_file(record: Record, output: Output, size_bytes: int) -> Json:
    return {
        "id": output.file_id,
        "object": "file",
        "bytes": size_bytes,
        "created_at": _time(record.end_time or record.create_time),
        "expires_at": _time(record.expire_time),
        "filename": f"batch_{record.batch_id.hex}_{'output' if output.succeeded else 'error'}.jsonl",
        "purpose": OUTPUT_PURPOSE,
        "status": "processed",
        "status_details": None,
    }


def batch(record: Record) -> Json:
    """Raises BatchNotFound if it is none of OpenAI's."""
    origin = Origin.of(record)
    status = _status(record)
    ended = record.end_time
    has_ended = ended is not None
    outputs = {
        "output_file_id": Output(record.batch_id, succeeded=True).file_id
        if has_ended and record.succeeded_count
        else None,
        "error_file_id": Output(record.batch_id, succeeded=False).file_id
        if has_ended and record.failed_count
        else None,
    }
    return {
        "id": f"batch_{record.batch_id.hex}",
        "object": "batch",
        "endpoint": origin.endpoint,
        "errors": None,
        "input_file_id": origin.input_file_id,
        "completion_window": WINDOW,
        "status": status,
        **outputs,
        "created_at": _time(record.create_time),
        "in_progress_at": _time(record.start_time),
        "expires_at": _time(record.due_time),
        "finalizing_at": None,
        "completed_at": _time(ended) if status == "completed" else None,
        "failed_at": None,
        "expired_at": _time(ended) if status == "expired" else None,
        "cancelling_at": _time(ended) if status == "cancelled" else None,
        "cancelled_at": _time(ended) if status == "cancelled" else None,
        "request_counts": {
            "total": record.item_count,
            "completed": record.succeeded_count,
            "failed": record.failed_count,
        },
        "metadata": origin.metadata,
    }


def listed(found: Sequence[Json], *, more: bool) -> Json:
    return {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": more,
    }


def _status(record: Record) -> str:
    match record.state:
        case State.DONE:
            return "expired" if record.end_time and record.end_time >= record.due_time else "completed"
        case State.CANCELLED:
            return "cancelled"
        case _:
            return "in_progress"


def _time(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
