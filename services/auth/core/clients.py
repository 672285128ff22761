"""Who may ask for a person's tokens: clients, what each may do, and where people are sent back to."""

import re
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import SplitResult, urlsplit

from services.auth.core.identity import SCOPES, Identity, Role

URI_LENGTH_MAX = 2048
LOOPBACK = {
    "127.0.0.1",
    "::1",
}  # Not `localhost`: what that resolves to is the machine's business (RFC 8252, 8.3).
_URI = re.compile(r"[!-~]+")  # Printable ASCII without a space; the rest has to be escaped.


class Grant(Enum):
    """What a client may be given tokens for, as the token endpoint names it."""

    CLIENT_CREDENTIALS = "client_credentials"
    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - A name.
    DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
    TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - A name.


class ActsFor(Enum):
    """Whose tokens a client may exchange for its own use (RFC 8693)."""

    NOBODY = "nobody"
    ORGANIZATION = "organization"
    EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    client_id: str
    display_name: str
    organization_id: str | None = None  # None: of the mesh itself, for the users of every tenant.
    redirect_uris: tuple[str, ...] = ()
    grants: frozenset[Grant]
    scopes: frozenset[str] = SCOPES
    role_max: Role = Role.USER
    secret_digest: bytes | None = field(repr=False, default=None)  # None: it cannot keep a secret.
    first_party: bool = False  # People are not asked whether they trust it.
    in_browser: bool = False  # Its refresh tokens are cookies that no script can read.
    resource_server: str | None = None  # The service whose tokens it may look into.
    acts_for: ActsFor = ActsFor.NOBODY
    identity: Identity | None = None  # Of a service account.

    @property
    def is_public(self) -> bool:
        return self.secret_digest is None

    @property
    def acts_as(self) -> str:
        """Its name where it acts for a user."""
        return self.identity.user_id if self.identity else f"client:{self.client_id}"

    def serves(self, organization_id: str) -> bool:
        """Whether users of that organisation may use it."""
        return self.organization_id in {None, organization_id}

    def allows_redirect(self, uri: str) -> bool:
        """Character by character (RFC 9700), but for the port of a program on the person's own machine (RFC 8252)."""
        return any(uri == known or _is_loopback_twin(uri, known) for known in self.redirect_uris)


LOGIN = Client(
    client_id="login",
    display_name="Ollamesh",
    grants=frozenset({Grant.REFRESH_TOKEN}),
    role_max=Role.ADMIN,
    first_party=True,
)
CLI = Client(
    client_id="ollamesh-cli",
    display_name="Ollamesh command line",
    redirect_uris=("http://127.0.0.1/callback", "http://[::1]/callback"),
    grants=frozenset({Grant.AUTHORIZATION_CODE, Grant.DEVICE_CODE, Grant.REFRESH_TOKEN}),
    role_max=Role.ADMIN,
    # Anybody can claim to be a program that keeps no secret: its user is asked.
    first_party=False,
)
BUILT_IN = {client.client_id: client for client in (LOGIN, CLI)}


def is_redirect_uri(uri: str) -> bool:
    """Whether a client may register it: absolute, without a fragment, and on a way that nobody listens in on."""
    if len(uri) > URI_LENGTH_MAX or not _URI.fullmatch(uri):
        return False
    parts = _split(uri)
    if (
        parts is None
        or parts.fragment
        or "#" in uri
        or parts.username is not None
        or parts.scheme != parts.scheme.lower()
    ):
        return False
    match parts.scheme:
        case "https":
            return bool(parts.hostname)
        case "http":
            return parts.hostname in LOOPBACK
        case scheme:
            return "." in scheme  # A private scheme of an app is a domain backwards (RFC 8252, 7.1).


def _is_loopback_twin(uri: str, known: str) -> bool:
    asked, registered = _split(uri), _split(known)
    if asked is None or registered is None or not _URI.fullmatch(uri):
        return False
    if registered.scheme != "http" or registered.hostname not in LOOPBACK or registered.port is not None:
        return False
    host = f"[{registered.hostname}]" if ":" in (registered.hostname or "") else registered.hostname
    port = "" if asked.port is None else f":{asked.port}"
    return uri == known.replace(f"http://{host}", f"http://{host}{port}", 1)


def _split(uri: str) -> SplitResult | None:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # Raises, when it is none.
    except ValueError:
        return None
    return parts
