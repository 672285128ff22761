"""Everything that can go wrong with threads and runs, by name."""

from services.common.errors import Kind, MeshError


class ThreadNotFound(MeshError):
    kind, reason = Kind.MISSING, "THREAD_NOT_FOUND"
    message = "there is no such thread"


class RunNotFound(MeshError):
    kind, reason = Kind.MISSING, "RUN_NOT_FOUND"
    message = "there is no such run"


class AssistantNotFound(MeshError):
    kind, reason = Kind.MISSING, "ASSISTANT_NOT_FOUND"
    message = "there is no such assistant"


class TooManyObjects(MeshError):
    kind, reason = Kind.EXHAUSTED, "TOO_MANY_OBJECTS"
    message = "there are as many of them as there may be; delete some first"


class ToolNotFound(MeshError):
    kind, reason = Kind.MISSING, "TOOL_NOT_FOUND"
    message = "there is no such tool"


class ThreadBusy(MeshError):
    kind, reason = Kind.PRECONDITION, "THREAD_BUSY"
    message = "another run works on the thread"


class RequestIdReused(MeshError):
    kind, reason = Kind.DUPLICATE, "REQUEST_ID_REUSED"
    message = "the request_id was used with another body"


class TooManyRuns(MeshError):
    kind, reason = Kind.EXHAUSTED, "TOO_MANY_RUNS"
    message = "as many runs as allowed wait or work"
    retry_after_s = 2.0


class PiiBlocked(MeshError):
    """Of an input, or of a run whose model reads or writes such data."""

    kind, reason = Kind.INVALID, "PII_BLOCKED"
    message = "the text holds personal data of a kind that the configuration blocks"


class ApprovalNotFound(MeshError):
    """Also of one that is decided otherwise by now: a decision is given once."""

    kind, reason = Kind.MISSING, "APPROVAL_NOT_FOUND"
    message = "the run waits for no such approval"


class ApprovalMismatch(MeshError):
    kind, reason = Kind.INVALID, "APPROVAL_MISMATCH"
    message = "the approval is for another call than the one that waits"


class AccessEnded(Exception):
    """Nobody is there to act for any more: the user, their login or their key has ended, or never gave the right.

    A run that needs them fails with ACCESS_ENDED.
    """


class RunBuiltUpon(MeshError):
    kind, reason = Kind.PRECONDITION, "RUN_BUILT_UPON"
    message = "later runs have gone on from the run"


class LeaseLost(Exception):
    """Somebody else answers for the run now, or nobody can: whatever this worker does is void."""


class LimitReached(Exception):
    """A run has used what it may. `limit` names the field of RunLimits."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class ModelFailed(Exception):
    """The model gave no whole answer. The message is for people, and says nothing of our insides."""

    def __init__(self, message: str, *, is_refused: bool = False, is_gone: bool = False) -> None:
        """`is_refused`: the token was not good enough. `is_gone`: there was an answer to the question's name, which
        nobody can hear any more.
        """
        super().__init__(message)
        self.is_refused, self.is_gone = is_refused, is_gone


class CheckpointUnreadable(Exception):
    """A checkpoint is not what was stored there, or no key opens it: nobody can go on from it."""


class Waits(Exception):
    """A run can only go on once people have answered its questions."""


class OutputInvalid(Exception):
    """The final answer does not keep the schema that it must keep, also when asked again. The message says what of it."""
