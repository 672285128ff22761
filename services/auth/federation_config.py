"""The OpenID provider that people may sign in with, if there is one."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from services.auth.core.federation import Provider
from services.auth.core.people import FIRST_PROJECT
from services.common.config import Environment
from services.common.policy import FOUNDING_ORGANIZATION

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationConfig:
    provider: Provider
    client_secret: str = field(repr=False)
    scopes: str
    redirect_uri: str
    title: str  # What the sign-in page calls the provider.


def read_federation(env: Environment, *, issuer: str) -> FederationConfig | None:
    """None if no provider is named. `issuer` is this service's own."""
    named = env.optional("OLLAMESH_OIDC_ISSUER")
    if named is None:
        return None
    if not is_safe(named):
        env.reject("OLLAMESH_OIDC_ISSUER", "is not an https URL (http is allowed on this machine only)")
    return FederationConfig(
        provider=Provider(
            issuer=named,
            client_id=env.text("OLLAMESH_OIDC_CLIENT_ID"),
            organization_id=env.text("OLLAMESH_OIDC_ORGANIZATION", FOUNDING_ORGANIZATION),
            project_id=env.text("OLLAMESH_OIDC_PROJECT", FIRST_PROJECT),
            role_claim=env.text("OLLAMESH_OIDC_ROLE_CLAIM", "groups"),
            admin_values=_values(env, "OLLAMESH_OIDC_ADMIN_VALUES"),
            user_values=_values(env, "OLLAMESH_OIDC_USER_VALUES"),
        ),
        client_secret=env.secret("OLLAMESH_OIDC_CLIENT_SECRET", bytes_min=16),
        scopes=env.text("OLLAMESH_OIDC_SCOPES", "openid profile"),
        redirect_uri=env.text("OLLAMESH_OIDC_REDIRECT_URI", f"{issuer.rstrip('/')}/oauth/callback"),
        title=env.text("OLLAMESH_OIDC_TITLE", urlsplit(named).hostname or "the identity provider"),
    )


def is_safe(url: str) -> bool:
    """Whether secrets may go there: nobody on the way can read them, or there is no way."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        )
    except ValueError:
        return False


def _values(env: Environment, name: str) -> frozenset[str]:
    return frozenset(value.strip() for value in (env.optional(name) or "").split(",") if value.strip())
