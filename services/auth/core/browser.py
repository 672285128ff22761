"""What a browser is allowed to keep, and how it is known that its own page asks.

Over https, cookies are `__Host-`: only this very host could have set them, and they are never sent in clear. That
prefix demands `Path=/`. Over http that prefix and `Secure` do not exist; there cookies are only set for a loopback
address, where nobody listens in, and only for the paths that need them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# A page of another origin cannot set it without being asked first (CORS), and the edge never agrees.
CSRF_HEADER = "x-csrf"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a browser reached this service, as the edge saw it. `origin` is empty if it did not say."""

    origin: str

    @property
    def is_secure(self) -> bool:
        return self.origin.startswith("https://")

    @property
    def may_keep_cookies(self) -> bool:
        return self.is_secure or _host(self.origin) in LOOPBACK

    def cookie_name(self, name: str) -> str:
        return f"__Host-{name}" if self.is_secure else name

    def cookie(self, name: str, value: str, *, path: str, same_site: str, lifetime_s: int) -> str:
        """A `set-cookie` header. A lifetime of 0 takes the cookie away."""
        where = "Path=/; Secure" if self.is_secure else f"Path={path}"
        return (
            f"{self.cookie_name(name)}={value}; Max-Age={lifetime_s}; {where}; HttpOnly; SameSite={same_site}"
        )

    def is_own(self, origins: Sequence[str], fetch_sites: Sequence[str]) -> bool:
        """Whether a page of this very origin sent the request, as browsers tell in headers that no script can set."""
        told = self.origin != "" and list(origins) == [self.origin]
        return told and list(fetch_sites) in ([], ["same-origin"])


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None
