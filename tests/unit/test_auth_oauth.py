"""The token endpoint's parser: whatever comes in, a request or one of RFC 6749's refusals comes out."""

import base64
import contextlib
import json
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.core.clients import Grant
from services.auth.core.forms import FORM, ClientProof, read_cookie, read_form
from services.auth.core.oauth import OAuthError, refusal
from services.auth.core.token_requests import ClientCredentials, TokenRequest, token_request
from services.auth.errors import RateLimited
from services.common.errors import StoreUnavailable

CODES = {"invalid_request", "invalid_client", "unsupported_grant_type", "invalid_target", "invalid_scope"}
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)


def asked(body: bytes, *authorization: str, content_type: str = FORM) -> TokenRequest:
    return token_request(read_form(content_type, body), authorization)


@given(
    st.text(max_size=40) | st.just(FORM), st.binary(max_size=300), st.lists(st.text(max_size=60), max_size=3)
)
def test_bytes_off_the_wire_never_break_it(content_type: str, body: bytes, authorization: list[str]) -> None:
    with contextlib.suppress(OAuthError):
        asked(body, *authorization, content_type=content_type)


FIELDS = (
    *("grant_type", "client_id", "client_secret", "scope", "x", "code", "code_verifier", "redirect_uri"),
    *("refresh_token", "device_code", "subject_token", "subject_token_type", "audience", "resource"),
)
grants = st.sampled_from([grant.value for grant in Grant]) | st.text(max_size=30)


@given(st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=30)), grants)
def test_a_form_is_read_or_refused_by_the_book(form: dict[str, str], grant: str) -> None:
    refused, read = None, None
    form |= {"grant_type": grant}
    try:
        read = asked(urlencode(form).encode())
    except OAuthError as error:
        refused = json.loads(error.body)["error"]
    if read is None:
        assert refused in CODES
    else:
        assert read.proof == ClientProof(form["client_id"], form.get("client_secret") or None)


@pytest.mark.parametrize("grant", ["password", "implicit", "authorization_code ", "urn:ietf:params:oauth:x"])
def test_what_is_no_grant_of_ours_is_said_to_be_none(grant: str) -> None:
    with pytest.raises(OAuthError, match="unsupported_grant_type"):
        asked(urlencode({"grant_type": grant, "client_id": "c"}).encode())


@given(words, words)
def test_both_ways_of_client_authentication_mean_the_same(name: str, secret: str) -> None:
    grant = {"grant_type": "client_credentials", "scope": "b a"}
    basic = base64.b64encode(f"{quote_plus(name)}:{quote_plus(secret)}".encode()).decode()
    in_header = asked(urlencode(grant).encode(), f"basic {basic}")
    in_form = asked(urlencode(grant | {"client_id": name, "client_secret": secret}).encode())
    assert in_header == in_form == ClientCredentials(ClientProof(name, secret), frozenset("ab"))


@given(st.lists(st.text(max_size=60), max_size=4), st.text(max_size=10))
def test_cookies_are_read_or_none(headers: list[str], name: str) -> None:
    read_cookie(headers, name)


@given(
    st.dictionaries(
        st.text("abcdefgh-_", min_size=1, max_size=8), st.text("xyz0123=/+", max_size=12), max_size=5
    ),
    st.integers(0, 5),
)
def test_a_cookie_is_found_however_a_proxy_cuts_the_header(cookies: dict[str, str], cut: int) -> None:
    pairs = [f"{name}={value}" for name, value in cookies.items()]
    headers = ["; ".join(part) for part in (pairs[:cut], pairs[cut:]) if part]
    for name, value in cookies.items():
        assert read_cookie(headers, name) == value
    assert read_cookie(headers, "nobody") is None


def test_two_cookies_of_one_name_are_none() -> None:
    assert read_cookie(["a=1; a=2"], "a") is None
    assert read_cookie(["a=1", "a=1"], "a") is None


@pytest.mark.parametrize(
    ("error", "status", "wait"), [(RateLimited(retry_after_s=7.6), 429, "8"), (StoreUnavailable(), 503, "1")]
)
def test_waits_are_told_in_http(error: RateLimited | StoreUnavailable, status: int, wait: str) -> None:
    told = refusal(error)
    assert (told.status, told.headers["retry-after"]) == (status, wait)


def test_a_secret_is_not_shown() -> None:
    assert "hunter2" not in repr(ClientCredentials(ClientProof("ollamesh", "hunter2")))
