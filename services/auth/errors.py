"""Everything for which the auth service turns a caller away, by name."""

from typing import Self

from services.auth.core.quotas import Spent, retry_s
from services.common.errors import Kind, MeshError


class CredentialsInvalid(MeshError):
    kind, reason = Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID"
    message = "the name and the secret do not belong together"


class RateLimited(MeshError):
    kind, reason = Kind.EXHAUSTED, "RATE_LIMITED"
    message = "too many attempts; wait before the next one"
    retry_after_s = 1.0


class NotFound(MeshError):
    """Also for what another tenant has."""

    kind, reason = Kind.MISSING, "NOT_FOUND"
    message = "there is no such object"


class NameTaken(MeshError):
    kind, reason = Kind.DUPLICATE, "NAME_TAKEN"
    message = "the name is taken"


class QuotaExceeded(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUOTA_EXCEEDED"
    message = "a budget is spent"

    @classmethod
    def of(cls, spent: Spent, *, reset_s: float) -> Self:
        """`reset_s` is how long the day still lasts."""
        return cls(quota=spent.quota, limit=f"{spent.limit:g}", retry_after_s=retry_s(spent, reset_s=reset_s))


class RequestIdReused(MeshError):
    kind, reason = Kind.DUPLICATE, "REQUEST_ID_REUSED"
    message = "the request_id was used with another body"


class LastAdmin(MeshError):
    kind, reason = Kind.PRECONDITION, "LAST_ADMIN"
    message = "the organisation would be left without an admin"


class NoPassword(MeshError):
    kind, reason = Kind.PRECONDITION, "NO_PASSWORD"
    message = "the user has no local password; the identity provider keeps it"


class KeyScopeNotHeld(MeshError):
    kind, reason = Kind.DENIED, "SCOPE_NOT_HELD"
    message = "a key cannot have a scope that its owner's token does not have"


class TooManyApiKeys(MeshError):
    kind, reason = Kind.PRECONDITION, "TOO_MANY_API_KEYS"
    message = "there are as many keys as a user may have; revoke one first"


class LoginRequired(MeshError):
    kind, reason = Kind.DENIED, "LOGIN_REQUIRED"
    message = "this takes a login of one's own; neither an API key nor a service that acts for a user will do"


class ReservationNotFound(MeshError):
    kind, reason = Kind.MISSING, "RESERVATION_NOT_FOUND"
    message = "there is no such reservation, or it is long over"


class WatchEnded(MeshError):
    kind, reason = Kind.UNAVAILABLE, "WATCH_ENDED"
    message = "this replica tells you no more; begin anew"
    retry_after_s = 1.0


class ProviderUnavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "PROVIDER_UNAVAILABLE"
    message = "the identity provider does not answer; local logins work"
    retry_after_s = 5.0


class FederationRefused(MeshError):
    kind, reason = Kind.UNAUTHENTICATED, "FEDERATION_REFUSED"
    message = "what the identity provider sent proves nothing, or the user may not in"


class GrantInvalid(MeshError):
    """Nothing says which of it: whoever guesses shall not learn."""

    kind, reason = Kind.UNAUTHENTICATED, "GRANT_INVALID"
    message = "the code, refresh token or mandate is unknown, expired, used before or revoked; log in again"


class ClientNotAllowed(MeshError):
    kind, reason = Kind.DENIED, "CLIENT_NOT_ALLOWED"
    message = "the client may not use this grant, or not for this user"


class ExchangeRefused(MeshError):
    """The user's token says that it cannot be passed on like that."""

    kind, reason = Kind.DENIED, "EXCHANGE_REFUSED"
    message = "the subject token is not a user's valid token, or is one that somebody else acts with"


class ScopeDenied(MeshError):
    kind, reason = Kind.DENIED, "SCOPE_DENIED"
    message = "the token may name only services that the user's token, and the client, are good for"


class TooManyMandates(MeshError):
    kind, reason = Kind.EXHAUSTED, "TOO_MANY_MANDATES"
    message = "services act for the user as often at a time as they may; wait until work ends"
    retry_after_s = 60.0


class TooManySecrets(MeshError):
    kind, reason = Kind.EXHAUSTED, "TOO_MANY_SECRETS"
    message = "the organisation has as many secrets as it may; delete one first"


class SecretUnreadable(MeshError):
    kind, reason = Kind.PRECONDITION, "SECRET_UNREADABLE"
    message = "the secret is there, but nothing opens it under its name; put it anew"
