"""Everything that can go wrong with a call, by name. What goes wrong in the code is an Outcome."""

from services.common.errors import Kind, MeshError


class SandboxUnavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "SANDBOX_UNAVAILABLE"
    message = "no engine can jail code on this machine just now"
    retry_after_s = 5.0


class QueueFull(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    message = "every jail and every waiting place is taken"
    retry_after_s = 1.0


class TooManyExecutions(MeshError):
    kind, reason = Kind.EXHAUSTED, "TOO_MANY_EXECUTIONS"
    message = "too many of your executions are under way"
    retry_after_s = 1.0


class ProfileUnknown(MeshError):
    kind, reason = Kind.INVALID, "PROFILE_UNKNOWN"
    message = "there is no such profile"


class EngineUnknown(MeshError):
    kind, reason = Kind.INVALID, "ENGINE_UNKNOWN"
    message = "there is no such engine, or it does not have the profile"


class ExecutionNotFound(MeshError):
    kind, reason = Kind.MISSING, "EXECUTION_NOT_FOUND"
    message = "you started no such execution, or it ended too long ago"


class InputEnded(MeshError):
    kind, reason = Kind.PRECONDITION, "INPUT_ENDED"
    message = "the execution has ended, or its input has"


class InputOffsetWrong(MeshError):
    kind, reason = Kind.PRECONDITION, "INPUT_OFFSET_WRONG"
    message = "the bytes do not follow what has arrived"


class RequestIdReused(MeshError):
    kind, reason = Kind.DUPLICATE, "REQUEST_ID_REUSED"
    message = "this id was used for something else"


class SessionNotFound(MeshError):
    kind, reason = Kind.MISSING, "SESSION_NOT_FOUND"
    message = "you have no such session"


class SessionBusy(MeshError):
    kind, reason = Kind.PRECONDITION, "SESSION_BUSY"
    message = "the session runs something else"
    retry_after_s = 1.0


class SessionsNotSupported(MeshError):
    kind, reason = Kind.PRECONDITION, "SESSIONS_NOT_SUPPORTED"
    message = "no engine here keeps sessions of this profile"


class TooManySessions(MeshError):
    kind, reason = Kind.EXHAUSTED, "TOO_MANY_SESSIONS"
    message = "you have as many sessions as allowed"


class FileNotFound(MeshError):
    kind, reason = Kind.MISSING, "FILE_NOT_FOUND"
    message = "the session has no such file"


class FileNotRegular(MeshError):
    kind, reason = Kind.PRECONDITION, "FILE_NOT_REGULAR"
    message = "what has this name is no regular file or no folder, as the call needs it"


class FileTooLarge(MeshError):
    kind, reason = Kind.EXHAUSTED, "FILE_TOO_LARGE"
    message = "the file, or all files together, would be too large"
