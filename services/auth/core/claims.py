"""What an access token says (RFC 9068), exactly as the services' strict verifier wants it."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.auth.core.identity import Identity

LIFETIME_MAX_S = 600  # Also the default; a stolen token is worth this long.

Claims = Mapping[str, str | int | list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """When a token is valid, in whole seconds since the epoch."""

    issued_at_s: int
    expires_at_s: int


def period(now_s: float, lifetime_s: float | None) -> Period:
    """From now on, for `lifetime_s` if that is shorter than the longest, and for a second at least."""
    wanted_s = LIFETIME_MAX_S if lifetime_s is None else int(min(lifetime_s, LIFETIME_MAX_S))
    return Period(issued_at_s=int(now_s), expires_at_s=int(now_s) + max(1, wanted_s))


def access_claims(identity: Identity, valid: Period, *, issuer: str, token_id: str) -> Claims:
    """The claims of a token for the services that the identity's scopes name."""
    return {
        "iss": issuer,
        "aud": sorted(identity.scopes),
        "sub": identity.user_id,
        "iat": valid.issued_at_s,
        "nbf": valid.issued_at_s,
        "exp": valid.expires_at_s,
        "jti": token_id,
        "client_id": identity.client_id,
        "user_id": identity.user_id,
        "role": identity.role.value,
        "org": identity.organization_id,
        "project": identity.project_id,
        "scope": " ".join(sorted(identity.scopes)),
    }
