"""Everything for which the auth service turns a caller away, by name."""

from services.common.errors import Kind, MeshError


class CredentialsInvalid(MeshError):
    kind, reason = Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID"
    message = "the name and the secret do not belong together"


class RateLimited(MeshError):
    kind, reason = Kind.EXHAUSTED, "RATE_LIMITED"
    message = "too many attempts; wait before the next one"
    retry_after_s = 1.0
