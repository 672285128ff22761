"""The token endpoint's parser: whatever comes in, a request or one of RFC 6749's refusals comes out."""

import base64
import contextlib
import json
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.core.oauth import FORM, ClientCredentials, OAuthError, refusal, token_request
from services.auth.errors import RateLimited
from services.common.errors import StoreUnavailable

CODES = {"invalid_request", "invalid_client", "unsupported_grant_type"}
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)


@given(
    st.text(max_size=40) | st.just(FORM), st.binary(max_size=300), st.lists(st.text(max_size=60), max_size=3)
)
def test_bytes_off_the_wire_never_break_it(content_type: str, body: bytes, authorization: list[str]) -> None:
    with contextlib.suppress(OAuthError):
        token_request(content_type, body, authorization)


@given(
    st.dictionaries(
        st.sampled_from(["grant_type", "client_id", "client_secret", "scope", "x"]), st.text(max_size=30)
    )
)
def test_a_form_is_read_or_refused_by_the_book(form: dict[str, str]) -> None:
    refused, read = None, None
    try:
        read = token_request(FORM, urlencode(form).encode(), ())
    except OAuthError as error:
        refused = json.loads(error.body)["error"]
    if read is None:
        assert refused in CODES
    else:
        assert form["grant_type"] == "client_credentials"
        assert (read.client_id, read.client_secret) == (form["client_id"], form["client_secret"])


@given(words, words)
def test_both_ways_of_client_authentication_mean_the_same(name: str, secret: str) -> None:
    grant = {"grant_type": "client_credentials", "scope": "b a"}
    basic = base64.b64encode(f"{quote_plus(name)}:{quote_plus(secret)}".encode()).decode()
    in_header = token_request(FORM, urlencode(grant).encode(), [f"basic {basic}"])
    in_form = token_request(
        FORM, urlencode(grant | {"client_id": name, "client_secret": secret}).encode(), ()
    )
    assert in_header == in_form == ClientCredentials(name, secret, frozenset("ab"))


@pytest.mark.parametrize(
    ("error", "status", "wait"), [(RateLimited(retry_after_s=7.6), 429, "8"), (StoreUnavailable(), 503, "1")]
)
def test_waits_are_told_in_http(error: RateLimited | StoreUnavailable, status: int, wait: str) -> None:
    told = refusal(error)
    assert (told.status, told.headers["retry-after"]) == (status, wait)


def test_a_secret_is_not_shown() -> None:
    assert "hunter2" not in repr(ClientCredentials("ollamesh", "hunter2"))
