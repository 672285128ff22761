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


class ProfileUnknown(MeshError):
    kind, reason = Kind.INVALID, "PROFILE_UNKNOWN"
    message = "there is no such profile"
