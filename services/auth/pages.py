"""The few pages that this service shows to people: what is in them, and what browsers may do with them.

No script, nothing from elsewhere, nothing kept, in no frame. Everything that is not ours is escaped (jinja2).
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import jinja2

from services.auth.core.clients import Client

STYLE = (
    ":root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}"
    "main{max-width:26rem;margin:10vh auto;padding:0 1rem}"
    "label{display:block;margin-top:1rem}"
    "input{box-sizing:border-box;width:100%;font:inherit;padding:.5rem}"
    "button{font:inherit;margin:1.5rem .5rem 0 0;padding:.5rem 1.5rem}"
    ".message{border-left:.25rem solid #c00;padding-left:.75rem}"
    "code{overflow-wrap:anywhere}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


def headers(redirect_uri: str = "") -> tuple[tuple[str, str], ...]:
    """For a page whose form may lead on to `redirect_uri`: browsers hold redirects to the form's policy too."""
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'{_place(redirect_uri)}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    return (
        ("content-security-policy", policy),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        # Not `no-referrer`: with it browsers would hide from us that our own page asks.
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    )


def sign_in(client: Client, ticket: str, *, provider: str, message: str = "") -> bytes:
    """`provider` is what the identity provider is called; empty if there is none."""
    return _page(
        "sign_in.html", client=client.display_name, ticket=ticket, provider=provider, message=message
    )


def consent(client: Client, ticket: str, *, user: str, scopes: Sequence[str], redirect_uri: str) -> bytes:
    return _page(
        "consent.html",
        client=client.display_name,
        ticket=ticket,
        user=user,
        scopes=scopes,
        place=_place(redirect_uri).strip(),
        message="",
    )


def device(ticket: str, *, user_code: str, message: str = "") -> bytes:
    return _page("device.html", ticket=ticket, user_code=user_code, message=message)


def device_consent(client: Client, ticket: str, *, user: str, scopes: Sequence[str], user_code: str) -> bytes:
    return _page(
        "device_consent.html",
        client=client.display_name,
        ticket=ticket,
        user=user,
        scopes=scopes,
        user_code=user_code,
        message="",
    )


def notice(heading: str, text: str) -> bytes:
    return _page("notice.html", heading=heading, text=text, message="")


def _page(template: str, **values: object) -> bytes:
    return _TEMPLATES.get_template(template).render(style=STYLE, **values).encode()


def _place(redirect_uri: str) -> str:
    """The origin of a registered address, or its scheme where that has none, as a policy names it."""
    parts = urlsplit(redirect_uri)
    if not parts.scheme:
        return ""
    return f" {parts.scheme}://{parts.netloc}" if parts.scheme in {"http", "https"} else f" {parts.scheme}:"
