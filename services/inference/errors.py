"""Everything that can go wrong with an answer, by name. The reasons are those of error_reason.proto."""

from services.common.errors import Kind, MeshError


class ModelNotFound(MeshError):
    kind, reason = Kind.MISSING, "MODEL_NOT_FOUND"
    message = "no instance has the model"


class ModelUnsuitable(MeshError):
    kind, reason = Kind.INVALID, "MODEL_UNSUITABLE"
    message = "the model cannot do this"


class ContextTooLarge(MeshError):
    kind, reason = Kind.INVALID, "CONTEXT_TOO_LARGE"
    message = "the context asked for is larger than the model has here"


class QueueFull(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    message = "every waiting place for the model is taken"
    retry_after_s = 1.0


class DeadlineUnreachable(MeshError):
    kind, reason = Kind.EXHAUSTED, "DEADLINE_UNREACHABLE"
    message = "by the estimate, the answer would not begin in time; nothing was generated"


class QueueTimeout(MeshError):
    kind, reason = Kind.TIMED_OUT, "QUEUE_TIMEOUT"
    message = "no slot became free in time; nothing was generated"


class NoInstance(MeshError):
    kind, reason = Kind.UNAVAILABLE, "NO_INSTANCE"
    message = "no instance that could answer is healthy; nothing was generated"
    retry_after_s = 2.0


class InstanceFailed(MeshError):
    kind, reason = Kind.UNAVAILABLE, "INSTANCE_FAILED"
    message = "the instance failed before the first token; nothing was generated"
    retry_after_s = 1.0


class CutShort(MeshError):
    """An answer that had begun and cannot be completed. Its facts say how far it came."""

    def located(self, *, stream_id: str, last_sequence: int) -> "CutShort":
        """Return the same with what only the reader's side knows: how much was sent."""
        return type(self)(stream_id=stream_id, last_sequence=last_sequence)


class InstanceLost(CutShort):
    kind, reason = Kind.ABORTED, "INSTANCE_LOST"
    message = "the instance was lost during the answer"


class StreamStalled(CutShort):
    kind, reason = Kind.ABORTED, "STREAM_STALLED"
    message = "the instance stopped sending during the answer"


class TimeExceeded(CutShort):
    kind, reason = Kind.TIMED_OUT, "TIME_EXCEEDED"
    message = "the answer took longer than the caller's policy allows"


class ReaderTooSlow(CutShort):
    kind, reason = Kind.EXHAUSTED, "READER_TOO_SLOW"
    message = "the reader was too slow for the stream's buffer"


class StreamNotFound(MeshError):
    kind, reason = Kind.MISSING, "STREAM_NOT_FOUND"
    message = "this caller opened no such stream"


class StreamExpired(MeshError):
    kind, reason = Kind.PRECONDITION, "STREAM_EXPIRED"
    message = "the stream existed, but what was asked for is kept no longer"


class StreamUnreachable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "STREAM_UNREACHABLE"
    message = "where the stream is kept does not answer just now"
    retry_after_s = 1.0


class StreamCancelled(CutShort):
    kind, reason = Kind.CANCELLED, "STREAM_CANCELLED"
    message = "the stream was cancelled"


class RequestIdReused(MeshError):
    kind, reason = Kind.DUPLICATE, "REQUEST_ID_REUSED"
    message = "the request_id was used with another body"


class ModelNotAllowed(MeshError):
    kind, reason = Kind.DENIED, "MODEL_NOT_ALLOWED"
    message = "the caller may not use the model"


class ModelTooLarge(MeshError):
    kind, reason = Kind.PRECONDITION, "MODEL_TOO_LARGE"
    message = "the model does not fit into the memory that is left; it was not loaded"


class TooManyPulls(MeshError):
    kind, reason = Kind.EXHAUSTED, "TOO_MANY_PULLS"
    message = "the instance is busy with as many downloads as it may have"
    retry_after_s = 10.0


class CacheUnavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "CACHE_UNAVAILABLE"
    message = (
        "the cache cannot be reached; nothing was purged, and while that lasts nothing is served from it"
    )
    retry_after_s = 1.0


class QuotaExceeded(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUOTA_EXCEEDED"
    message = "a budget of the tenant is spent"


class QuotaUnavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "QUOTA_UNAVAILABLE"
    message = "the budgets cannot be asked for just now; nothing was queued"
    retry_after_s = 1.0


class BatchNotFound(MeshError):
    kind, reason = Kind.MISSING, "BATCH_NOT_FOUND"
    message = "this caller created no such batch"


class ItemPoisoned(MeshError):
    kind, reason = Kind.ABORTED, "ITEM_POISONED"
    message = "the item was begun as often as an item may be, and its worker or instance was lost each time"


class BatchExpired(MeshError):
    kind, reason = Kind.TIMED_OUT, "BATCH_EXPIRED"
    message = "the completion window ended before the item was done"


class FileNotFound(MeshError):
    kind, reason = Kind.MISSING, "FILE_NOT_FOUND"
    message = "this caller has no such file"
