"""Tokens that are almost ours: each of them must be refused (RFC 8725, RFC 9068)."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import TokenExpired, TokenInvalid
from services.common.tokens import (
    CLOCK_SKEW_S,
    LIFETIME_MAX_S,
    TOKEN_BYTES_MAX,
    Caller,
    Role,
    role_of,
    verify,
)

NOW_S = 1_800_000_000
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # Of P-256.
PRIVATE = ec.generate_private_key(ec.SECP256R1())
HEADER = {"alg": "ES256", "typ": "at+jwt", "kid": "k1"}
CLAIMS: dict[str, Any] = {
    "iss": "http://ollamesh",
    "aud": ["auth", "inference"],
    "sub": "user:ann",
    "user_id": "user:ann",
    "client_id": "login",
    "role": "user",
    "org": "default",
    "project": "default",
    "scope": "read write",
    "iat": NOW_S,
    "nbf": NOW_S,
    "exp": NOW_S + LIFETIME_MAX_S,
    "jti": "t1",
}
SPKI = PRIVATE.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
KEYS = {
    "k1": jwt.PyJWK(jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True), algorithm="ES256")
}


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def signed(header: Any, claims: Any, key: ec.EllipticCurvePrivateKey = PRIVATE) -> str:
    """A token with any header and any payload, properly signed by `key`."""
    signing_input = f"{encoded(_json(header))}.{encoded(_json(claims))}"
    r, s = decode_dss_signature(key.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signing_input}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _json(part: Any) -> bytes:
    return part if isinstance(part, bytes) else json.dumps(part).encode()


def check(token: str, *, now_s: float = NOW_S, keys: Mapping[str, jwt.PyJWK] = KEYS) -> Caller:
    return verify(token, keys, issuer="http://ollamesh", audience="inference", now_s=now_s)


def without(part: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}


def test_ours_is_accepted_and_read() -> None:
    token = signed(HEADER, CLAIMS)
    assert check(token) == Caller(
        user_id="user:ann",
        role=Role.USER,
        organization_id="default",
        project_id="default",
        client_id="login",
        scopes=frozenset({"read", "write"}),
        token_id="t1",
        expires_at_s=NOW_S + LIFETIME_MAX_S,
        token=token,
        issued_at_s=NOW_S,
        key_id="k1",
    )
    assert token not in repr(check(token))


@pytest.mark.parametrize(
    ("claims", "is_service"),
    [
        (CLAIMS, False),
        (CLAIMS | {"sub": "service:login", "user_id": "service:login"}, True),
        (CLAIMS | {"sub": "service:other", "user_id": "service:other"}, False),
    ],
)
def test_a_service_is_its_own_user(claims: dict[str, Any], is_service: bool) -> None:  # noqa: FBT001
    assert check(signed(HEADER, claims)).is_service is is_service


HEADERS: dict[str, Any] = {
    "another type": HEADER | {"typ": "JWT"},
    "another media type": HEADER | {"typ": "application/at+jwt"},
    "type in capitals": HEADER | {"typ": "AT+JWT"},
    "no type": without(HEADER, "typ"),
    "type is a number": HEADER | {"typ": 1},
    "crit": HEADER | {"crit": ["b64"]},
    "empty crit": HEADER | {"crit": []},
    "b64": HEADER | {"b64": False, "crit": ["b64"]},
    "content type": HEADER | {"cty": "JWT"},
    "its own key": HEADER | {"jwk": jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True)},
    "where to find its key": HEADER | {"jku": "http://evil/jwks.json"},
    "a certificate": HEADER | {"x5u": "http://evil/cert"},
    "no key id": without(HEADER, "kid"),
    "unknown key id": HEADER | {"kid": "k2"},
    "key id is a path": HEADER | {"kid": "../../dev/null"},
    "key id is a number": HEADER | {"kid": 1},
    "key id is a list": HEADER | {"kid": ["k1"]},
    "key id is null": HEADER | {"kid": None},
    "no algorithm": without(HEADER, "alg"),
    "another algorithm": HEADER | {"alg": "ES384"},
    "algorithm in small letters": HEADER | {"alg": "es256"},
    "algorithm is a list": HEADER | {"alg": ["ES256"]},
    "a list": [HEADER],
    "a string": "ES256",
    "null": None,
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "deep": b"[" * 4000,
    "twice the type": b'{"alg":"ES256","kid":"k1","typ":"JWT","typ":"at+jwt"}',
    "twice the key": b'{"alg":"ES256","kid":"k2","typ":"at+jwt","kid":"k1"}',
    "UTF-16": json.dumps(HEADER).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(HEADER).encode(),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_any_other_header_is_refused(header: Any) -> None:
    with pytest.raises(TokenInvalid):
        check(signed(header, CLAIMS))


BAD_CLAIMS: dict[str, Any] = {
    **{f"no {name}": without(CLAIMS, name) for name in CLAIMS if name != "scope"},
    **{f"{name} is null": CLAIMS | {name: None} for name in CLAIMS},
    **{f"{name} is a number": CLAIMS | {name: 7} for name in CLAIMS if name not in {"iat", "nbf", "exp"}},
    **{f"{name} is a list": CLAIMS | {name: ["x"]} for name in CLAIMS},
    **{f"{name} is an object": CLAIMS | {name: {"x": 1}} for name in CLAIMS},
    **{f"{name} is empty": CLAIMS | {name: ""} for name in CLAIMS if name != "scope"},
    **{f"{name} is a fraction": CLAIMS | {name: NOW_S + 0.5} for name in ("iat", "nbf", "exp")},
    **{f"{name} is a string": CLAIMS | {name: str(NOW_S)} for name in ("iat", "nbf", "exp")},
    **{f"{name} is true": CLAIMS | {name: True} for name in ("iat", "nbf", "exp")},
    **{f"{name} is infinite": CLAIMS | {name: float("inf")} for name in ("iat", "nbf", "exp")},
    **{f"{name} is NaN": CLAIMS | {name: float("nan")} for name in ("iat", "nbf", "exp")},
    **{f"{name} is negative": CLAIMS | {name: -1} for name in ("exp", "iat")},
    **{
        f"{name} holds {what}": CLAIMS
        | {name: f"a{text}b"}
        | ({"sub": f"a{text}b"} if name == "user_id" else {})
        for name in ("user_id", "org", "project", "client_id", "jti")
        for what, text in (
            ("NUL", "\0"),
            ("a newline", "\r\n"),
            ("a bidi mark", "\u202e"),
            ("an accent", "é"),
        )
    },
    "a long name": CLAIMS | {"org": "o" * 129},
    "another subject": CLAIMS | {"sub": "user:bob"},
    "another issuer": CLAIMS | {"iss": "http://ollamesh/"},
    "another audience": CLAIMS | {"aud": ["auth"]},
    "audience is a string": CLAIMS | {"aud": "inference"},
    "audience with a number": CLAIMS | {"aud": ["inference", 1]},
    "no audience": CLAIMS | {"aud": []},
    "audience is part of a word": CLAIMS | {"aud": ["inferences"]},
    "role from nowhere": CLAIMS | {"role": "root"},
    "role in capitals": CLAIMS | {"role": "ADMIN"},
    "two roles": CLAIMS | {"role": ["user", "admin"]},
    "lives too long": CLAIMS | {"exp": NOW_S + LIFETIME_MAX_S + 1},
    "lives a year": CLAIMS | {"exp": NOW_S + 365 * 86_400},
    "lives not at all": CLAIMS | {"exp": NOW_S},
    "ends before it begins": CLAIMS | {"exp": NOW_S - 1},
    "of the future": CLAIMS | {"iat": NOW_S + CLOCK_SKEW_S + 1, "exp": NOW_S + CLOCK_SKEW_S + 60},
    "not yet": CLAIMS | {"nbf": NOW_S + CLOCK_SKEW_S + 1},
    "a huge time": CLAIMS | {"iat": 10**300, "exp": 10**300 + 60},
    "a list": [CLAIMS],
    "a string": "claims",
    "null": None,
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "deep": b"[" * 4000,
    "twice the role": json.dumps(CLAIMS)
    .replace('"role": "user"', '"role": "admin", "role": "user"')
    .encode(),
    "twice a member inside": json.dumps(CLAIMS | {"act": {"sub": "x"}})
    .replace(': "x"', ': "x", "sub": "y"')
    .encode(),
    "UTF-16": json.dumps(CLAIMS).encode("utf-16"),
    "scope with two spaces": CLAIMS | {"scope": "auth  inference"},
    "scope with a newline": CLAIMS | {"scope": "auth\ninference"},
    "scope with a quote": CLAIMS | {"scope": 'auth "inference"'},
    "many audiences": CLAIMS | {"aud": ["inference"] * 17},
    "binds to two keys": CLAIMS | {"cnf": {"jkt": "x", "jwk": {}}},
    "bound by an embedded key": CLAIMS | {"cnf": {"jwk": {}}},
    "a chain of actors": CLAIMS | {"act": {"sub": "x", "act": {"sub": "y"}}},
    "actor without a name": CLAIMS | {"act": {}},
    "session is a number": CLAIMS | {"sid": 1},
}


@pytest.mark.parametrize("claims", BAD_CLAIMS.values(), ids=BAD_CLAIMS)
def test_any_other_claims_are_refused_though_the_signature_fits(claims: Any) -> None:
    with pytest.raises(TokenInvalid):
        check(signed(HEADER, claims))


def test_no_signature_no_entry() -> None:
    body = f"{encoded(_json(HEADER | {'alg': 'none'}))}.{encoded(_json(CLAIMS))}"
    for token in (f"{body}.", body, f"{body}.{encoded(b'x' * 64)}"):
        with pytest.raises(TokenInvalid):
            check(token)


@pytest.mark.parametrize("secret", [SPKI, SPKI.strip(), b"k1", b""])
def test_the_public_key_is_no_shared_secret(secret: bytes) -> None:
    signing_input = f"{encoded(_json(HEADER | {'alg': 'HS256'}))}.{encoded(_json(CLAIMS))}"
    mac = hmac.new(secret, signing_input.encode(), hashlib.sha256).digest()
    with pytest.raises(TokenInvalid):
        check(f"{signing_input}.{encoded(mac)}")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP256K1()), "ES256K"),
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (rsa.generate_private_key(65537, 2048), "PS256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_a_strangers_key_opens_nothing(key: Any, algorithm: str) -> None:
    with pytest.raises(TokenInvalid):
        check(jwt.encode(CLAIMS, key, algorithm=algorithm, headers={"typ": "at+jwt", "kid": "k1"}))


MUTATIONS: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "a dot": lambda _: ".",
    "two parts": lambda token: token.rsplit(".", 1)[0],
    "four parts": lambda token: token + ".x",
    "five parts": lambda token: token + ".x.y",
    "another payload": lambda token: token.replace(
        token.split(".")[1], encoded(_json(CLAIMS | {"role": "admin"}))
    ),
    "signature of zeros": lambda token: f"{token.rsplit('.', 1)[0]}.{encoded(bytes(64))}",
    "signature in DER": lambda token: f"{token.rsplit('.', 1)[0]}.{encoded(_der(token))}",
    "signature cut": lambda token: token[:-2],
    "oversize": lambda token: token + "A" * TOKEN_BYTES_MAX,
    "not ASCII": lambda token: token + "é",
    "a lone surrogate": lambda token: token + "\ud800",
    "a NUL": lambda token: token + "\0",
    "a space before": lambda token: " " + token,
    "a newline inside": lambda token: token.replace(".", ".\n", 1),
    "standard alphabet": lambda token: token.replace(".", ".+/", 1),
}


def _der(token: str) -> bytes:
    return PRIVATE.sign(token.rsplit(".", 1)[0].encode(), ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_a_changed_token_is_refused(mutate: Callable[[str], str]) -> None:
    with pytest.raises(TokenInvalid):
        check(mutate(signed(HEADER, CLAIMS)))


def test_expiry_allows_for_skewed_clocks_and_for_no_more() -> None:
    token = signed(HEADER, CLAIMS)
    check(token, now_s=CLAIMS["exp"] + CLOCK_SKEW_S - 0.1)
    with pytest.raises(TokenExpired):
        check(token, now_s=CLAIMS["exp"] + CLOCK_SKEW_S)
    check(token, now_s=NOW_S - CLOCK_SKEW_S)
    with pytest.raises(TokenInvalid):
        check(token, now_s=NOW_S - CLOCK_SKEW_S - 1)


def test_a_forged_token_is_not_said_to_have_expired() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(TokenInvalid):
        check(signed(HEADER, CLAIMS, stranger), now_s=NOW_S + 10_000)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.text(max_size=300))
def test_text_is_refused_and_never_more_than_that(token: str) -> None:
    with pytest.raises(TokenInvalid):
        check(token)


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "x"]), json_values))
def test_a_header_is_ours_or_refused(header: dict[str, Any]) -> None:
    if header != HEADER:
        with pytest.raises(TokenInvalid):
            check(signed(header, CLAIMS))


@given(
    st.dictionaries(st.sampled_from([name for name in CLAIMS if name != "scope"]), json_values, min_size=1)
)
def test_a_signed_claim_of_any_other_kind_is_refused_or_harmless(changed: dict[str, Any]) -> None:
    """Whatever the signer is made to sign, what comes out is a whole caller or a refusal."""
    try:
        found = check(signed(HEADER, CLAIMS | changed))
    except (TokenInvalid, TokenExpired):
        return
    names = (found.user_id, found.organization_id, found.project_id, found.client_id, found.token_id)
    assert all(isinstance(name, str) and name.isascii() and name.isprintable() and name for name in names)
    assert isinstance(found.role, Role)


@given(st.sampled_from(sorted(CLAIMS)))
def test_no_right_is_gained_by_losing_a_claim(name: str) -> None:
    try:
        less = check(signed(HEADER, without(CLAIMS, name)))
    except TokenInvalid:
        return
    assert (name, less.scopes) == ("scope", frozenset())


def test_the_role_of_a_token_that_is_believed_already_is_read_or_empty() -> None:
    assert role_of(signed(HEADER, CLAIMS)) == "user"
    for other in ("", "opaque", signed(HEADER, {}), signed(HEADER, {"role": 1}), signed(HEADER, b"[]")):
        assert role_of(other) == ""
