"""Where people are sent back to, what a client may ask for, and what acting for a user is worth."""

from urllib.parse import parse_qs, urlsplit

import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from hypothesis import given
from hypothesis import strategies as st

from services.auth.core.clients import BUILT_IN, CLI, ActsFor, Client, Grant, is_redirect_uri
from services.auth.core.codes import Refused, Unanswerable, answer, checked
from services.auth.core.exchange import Subject, exchanged
from services.auth.core.identity import SCOPES, Identity, Role
from services.auth.errors import ClientNotAllowed, ExchangeRefused, ScopeDenied

APP = Client(
    client_id="app",
    display_name="App",
    organization_id="o",
    redirect_uris=("https://app.example/cb", "com.example.app:/cb", "http://127.0.0.1:9999/fixed"),
    grants=frozenset({Grant.AUTHORIZATION_CODE}),
    scopes=frozenset({"agent", "inference"}),
)


@pytest.mark.parametrize(
    ("client", "uri"),
    [
        (APP, "https://app.example/cb"),
        (APP, "com.example.app:/cb"),
        (APP, "http://127.0.0.1:9999/fixed"),
        (CLI, "http://127.0.0.1/callback"),
        (CLI, "http://127.0.0.1:1/callback"),
        (CLI, "http://127.0.0.1:65535/callback"),
        (CLI, "http://[::1]:8000/callback"),
    ],
)
def test_registered_addresses_are_allowed_and_any_port_on_loopback(client: Client, uri: str) -> None:
    assert client.allows_redirect(uri)


@pytest.mark.parametrize(
    ("client", "uri"),
    [
        (APP, "https://app.example/cb/"),
        (APP, "https://app.example/CB"),
        (APP, "https://app.example:443/cb"),
        (APP, "https://app.example/cb?x=1"),
        (APP, "https://app.example.evil/cb"),
        (APP, "http://app.example/cb"),
        (APP, "http://127.0.0.1:9998/fixed"),
        (APP, ""),
        (CLI, "http://localhost:1/callback"),
        (CLI, "http://127.0.0.1:1/callback?x=1"),
        (CLI, "http://127.0.0.1:1/callback#x"),
        (CLI, "http://127.0.0.1:65536/callback"),
        (CLI, "http://127.0.0.1:0x50/callback"),
        (CLI, "http://127.0.0.1:1@evil.example/callback"),
        (CLI, "http://user@127.0.0.1:1/callback"),
        (CLI, "https://127.0.0.1:1/callback"),
        (CLI, "http://127.1:1/callback"),
        (CLI, "http://127.0.0.1:1\\@evil.example/callback"),
        (CLI, "http://127.0.0.1:1/callback\n"),
        (CLI, "http://127.0.0.1:1/../callback"),
    ],
)
def test_nothing_else_is(client: Client, uri: str) -> None:
    assert not client.allows_redirect(uri)


@given(st.text(max_size=60) | st.text("htp:/127.0@[]#?callb\\", max_size=40).map("http://".__add__))
def test_whatever_is_allowed_leads_to_a_registered_host(uri: str) -> None:
    for client in (APP, CLI):
        if client.allows_redirect(uri):
            parts = urlsplit(uri)
            assert parts.hostname in {"app.example", "127.0.0.1", "::1", None}
            assert not parts.fragment
    is_redirect_uri(uri)


@pytest.mark.parametrize(
    ("uri", "good"),
    [
        ("https://app.example/cb?x=1", True),
        ("http://127.0.0.1/cb", True),
        ("com.example.app:/cb", True),
        ("http://app.example/cb", False),
        ("http://localhost/cb", False),
        ("https:///cb", False),
        ("https://app.example/cb#f", False),
        ("https://app.example/cb#", False),
        ("https://u:p@app.example/", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("/cb", False),
        ("https://app.example/\u00e9", False),
        ("https://app.example/" + "x" * 3000, False),
    ],
)
def test_what_may_be_registered(uri: str, *, good: bool) -> None:
    assert is_redirect_uri(uri) is good


def test_the_built_in_clients_keep_no_secret_and_act_for_nobody() -> None:
    for client in BUILT_IN.values():
        assert client.is_public
        assert client.acts_for is ActsFor.NOBODY
        assert Grant.TOKEN_EXCHANGE not in client.grants
        assert all(is_redirect_uri(uri) for uri in client.redirect_uris)


GOOD = {
    "response_type": ["code"],
    "client_id": ["app"],
    "redirect_uri": ["https://app.example/cb"],
    "code_challenge": [create_s256_code_challenge("v" * 43)],
    "code_challenge_method": ["S256"],
}


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "scope", "state", "x"]), st.lists(st.text(max_size=20), max_size=3)
    )
)
def test_a_request_is_read_refused_to_its_client_or_to_nobody(parameters: dict[str, list[str]]) -> None:
    mixed = GOOD | parameters
    wanted, refused, safe = None, None, mixed["redirect_uri"][:1] == ["https://app.example/cb"]
    try:
        wanted = checked(mixed, APP)
    except Unanswerable:
        assert not safe
    except Refused as no:
        refused = no.redirect_uri
    assert refused in {None, "https://app.example/cb"}
    if wanted is not None:
        assert safe
        assert wanted.scopes <= APP.scopes
        assert len(wanted.code_challenge) == 43


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_a_client_is_told_arrives_as_it_was_meant(state: str, code: str) -> None:
    where = answer("https://app.example/cb?x=1&y=", {"code": code, "state": state, "no": None})
    told = parse_qs(urlsplit(where).query, keep_blank_values=True)
    assert told == {"x": ["1"], "y": [""], "code": [code], "state": [state]}
    assert where.isascii()
    assert "\n" not in where


scopes = st.frozensets(st.sampled_from(sorted(SCOPES)))
actors = st.builds(
    Client,
    client_id=st.just("svc"),
    display_name=st.just("svc"),
    organization_id=st.sampled_from(["o", "p"]),
    grants=st.frozensets(st.sampled_from(list(Grant))),
    scopes=scopes,
    secret_digest=st.just(b"d" * 32),
    acts_for=st.sampled_from(list(ActsFor)),
)
subjects = st.builds(
    Subject,
    identity=st.builds(
        Identity,
        user_id=st.sampled_from(["user:ann", "service:svc"]),
        role=st.sampled_from(list(Role)),
        organization_id=st.just("o"),
        project_id=st.just("p"),
        client_id=st.just("login"),
        scopes=scopes,
    ),
    actor=st.sampled_from([None, "client:svc", "service:other"]),
    session_id=st.none(),
    api_key_id=st.none(),
    expires_at_s=st.just(1),
)


@given(subjects, actors, scopes)
def test_acting_for_a_user_never_widens(subject: Subject, actor: Client, wanted: frozenset[str]) -> None:
    try:
        found = exchanged(subject, actor, wanted)
    except (ClientNotAllowed, ExchangeRefused, ScopeDenied):
        return
    theirs = subject.identity
    assert (found.user_id, found.role) == (theirs.user_id, theirs.role)
    assert (found.organization_id, found.project_id) == (theirs.organization_id, theirs.project_id)
    assert frozenset() < found.scopes <= theirs.scopes & actor.scopes
    assert theirs.user_id.startswith("user:")
    assert subject.actor in {None, "client:svc"}
    assert Grant.TOKEN_EXCHANGE in actor.grants
    assert actor.acts_for is ActsFor.EVERYBODY or (
        actor.acts_for is ActsFor.ORGANIZATION and actor.organization_id == "o"
    )
