"""A browser's refresh token: a cookie that no script can read, and that only this site's own pages can use (A17)."""

from services.auth.core.browser import CSRF_HEADER
from services.auth.core.forms import read_cookie
from services.auth.rpc.http import header, site
from services.auth.token_endpoint import BrowserSide
from services.common.grpc.around import Context

COOKIE, PATH = "ollamesh-refresh", "/oauth"


Headers = tuple[tuple[str, str], ...]


def side_of(context: Context) -> BrowserSide:
    """What the caller's browser can keep, and the token that it sent for one of this site's own pages."""
    here, own = site(context), is_own(context)
    token = read_cookie(header(context, "cookie"), here.cookie_name(COOKIE)) if own else None
    return BrowserSide(may_keep=here.may_keep_cookies, is_own=own, refresh_token=token)


def is_own(context: Context) -> bool:
    """Whether one of this site's own pages asks. The page says so by a header that a foreign page may not send, and
    the browser by where the page is from.
    """
    own = site(context).is_own(header(context, "origin"), header(context, "sec-fetch-site"))
    return own and header(context, CSRF_HEADER) == ["1"]


def kept(token: str, lifetime_s: float, context: Context) -> Headers:
    cookie = site(context).cookie(COOKIE, token, path=PATH, same_site="Strict", lifetime_s=int(lifetime_s))
    return (("set-cookie", cookie),)


def forgotten(context: Context) -> Headers:
    return kept("", 0, context)
