"""What an access token says (RFC 9068), exactly as the services' strict verifier wants it."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.auth.core.identity import Identity

LIFETIME_MAX_S = 600  # Also the default; a stolen token is worth this long.

Claims = Mapping[str, str | int | list[str] | Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """When a token is valid, in whole seconds since the epoch."""

    issued_at_s: int
    expires_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """What a token comes from, beside its owner, and what it is bound to. Nothing here adds rights."""

    session_id: str | None = None  # The login; what ends it, ends all tokens of it.
    api_key_id: str | None = None
    actor: str | None = None  # The service that acts for the owner (RFC 8693).
    key_thumbprint: str | None = None  # Of the key that its bearer must prove to hold (RFC 9449).

    def claims(self) -> Claims:
        """Those that are set, as `services/common/tokens.py` reads them."""
        named = {
            "sid": self.session_id,
            "api_key": self.api_key_id,
            "act": self.actor and {"sub": self.actor},
            "cnf": self.key_thumbprint and {"jkt": self.key_thumbprint},
        }
        return {name: value for name, value in named.items() if value}


def period(now_s: float, lifetime_s: float | None) -> Period:
    """From now on, for `lifetime_s` if that is shorter than the longest, and for a second at least."""
    wanted_s = LIFETIME_MAX_S if lifetime_s is None else int(min(lifetime_s, LIFETIME_MAX_S))
    return Period(issued_at_s=int(now_s), expires_at_s=int(now_s) + max(1, wanted_s))


def access_claims(
    identity: Identity, valid: Period, *, issuer: str, token_id: str, descent: Descent = Descent()
) -> Claims:
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
        **descent.claims(),
    }
