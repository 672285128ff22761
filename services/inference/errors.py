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

    def locate(self, *, stream_id: str, last_sequence: int) -> None:
        """Add what only the reader's side knows: how much was sent."""
        self.facts |= {"stream_id": stream_id, "last_sequence": str(last_sequence)}


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


class CacheUnavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "CACHE_UNAVAILABLE"
    message = (
        "the cache cannot be reached; nothing was purged, and while that lasts nothing is served from it"
    )
    retry_after_s = 1.0
