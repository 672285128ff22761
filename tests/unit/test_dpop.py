"""Proofs of a key (RFC 9449): what one must say, and that it is good once."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from services.common.dpop import AGE_S_MAX, PROOF_BYTES_MAX, Proof, Used, read_proof, thumbprint_of
from services.common.errors import AuthUnavailable, TokenInvalid
from services.common.tokens import CLOCK_SKEW_S
from tests.unit.test_tokens import encoded, signed

NOW_S = 1_800_000_000
PATH = "/ollamesh.inference.v1.InferenceService/Chat"
TOKEN = "a.b.c"
KEY = ec.generate_private_key(ec.SECP256R1())


def jwk_of(key: ec.EllipticCurvePrivateKey = KEY, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return found | more


HEADER = {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk_of()}
CLAIMS: dict[str, Any] = {
    "jti": "p1",
    "htm": "POST",
    "htu": PATH,
    "iat": NOW_S,
    "ath": encoded(hashlib.sha256(TOKEN.encode()).digest()),
}


def read(text: str, *, token: str | None = TOKEN) -> Proof:
    return read_proof(text, paths={PATH}, now_s=NOW_S, access_token=token)


def proof(header: Any = HEADER, claims: Any = CLAIMS, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    return signed(header, claims, key)


def without(part: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}


def test_a_proof_tells_its_key() -> None:
    found = read(proof())
    assert found.thumbprint == thumbprint_of(jwk_of())
    assert found.good_until_s == NOW_S + AGE_S_MAX + CLOCK_SKEW_S


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    """RFC 7638 has an example with RSA only; this is RFC 9449's key and its `jkt`."""
    jwk = {
        "kty": "EC",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
        "crv": "P-256",
    }
    assert thumbprint_of(jwk) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


@pytest.mark.parametrize(
    "uri", [PATH, f"https://mesh.example{PATH}", f"http://127.0.0.1:8080{PATH}", f"https://[::1]:1{PATH}"]
)
@pytest.mark.parametrize("age_s", [-CLOCK_SKEW_S, 0, AGE_S_MAX])
def test_it_may_name_the_call_by_any_host(uri: str, age_s: float) -> None:
    read(proof(claims=CLAIMS | {"htu": uri, "iat": NOW_S - int(age_s)}))


STRANGER = ec.generate_private_key(ec.SECP256R1())
BAD: dict[str, str] = {
    **{f"no {name}": proof(claims=without(CLAIMS, name)) for name in CLAIMS},
    **{f"{name} is a list": proof(claims=CLAIMS | {name: ["x"]}) for name in CLAIMS},
    **{f"{name} is null": proof(claims=CLAIMS | {name: None}) for name in CLAIMS},
    **{f"no {name} in the header": proof(without(HEADER, name)) for name in HEADER},
    "another method": proof(claims=CLAIMS | {"htm": "GET"}),
    "method in small letters": proof(claims=CLAIMS | {"htm": "post"}),
    "another call": proof(claims=CLAIMS | {"htu": PATH.replace("Chat", "Embed")}),
    "a longer path": proof(claims=CLAIMS | {"htu": f"{PATH}/x"}),
    "a query": proof(claims=CLAIMS | {"htu": f"{PATH}?x"}),
    "a fragment": proof(claims=CLAIMS | {"htu": f"{PATH}#x"}),
    "another scheme": proof(claims=CLAIMS | {"htu": f"ftp://mesh{PATH}"}),
    "no URI": proof(claims=CLAIMS | {"htu": "https://[" + PATH}),
    "another token": proof(claims=CLAIMS | {"ath": encoded(hashlib.sha256(b"x").digest())}),
    "too old": proof(claims=CLAIMS | {"iat": NOW_S - int(AGE_S_MAX) - CLOCK_SKEW_S - 1}),
    "of the future": proof(claims=CLAIMS | {"iat": NOW_S + CLOCK_SKEW_S + 1}),
    "a fraction of a second": proof(claims=CLAIMS | {"iat": NOW_S + 0.5}),
    "true for a time": proof(claims=CLAIMS | {"iat": True}),
    "a long id": proof(claims=CLAIMS | {"jti": "x" * 129}),
    "an access token": proof(HEADER | {"typ": "at+jwt"}),
    "a plain JWT": proof(HEADER | {"typ": "JWT"}),
    "another algorithm": proof(HEADER | {"alg": "ES384"}),
    "none": proof(HEADER | {"alg": "none"}),
    "a key id besides": proof(HEADER | {"kid": "x"}),
    "crit": proof(HEADER | {"crit": ["x"]}),
    "another's key": proof(HEADER | {"jwk": jwk_of(STRANGER)}),
    "signed by another": proof(key=STRANGER),
    "a private key": proof(HEADER | {"jwk": jwt.algorithms.ECAlgorithm.to_jwk(KEY, as_dict=True)}),
    "a shared secret": proof(HEADER | {"jwk": {"kty": "oct", "k": "eA"}}),
    "a certificate in the key": proof(HEADER | {"jwk": jwk_of(x5c=["x"])}),
    "a key for encryption": proof(HEADER | {"jwk": jwk_of(use="enc")}),
    "a key that is a list": proof(HEADER | {"jwk": [jwk_of()]}),
    "a key that is a string": proof(HEADER | {"jwk": json.dumps(jwk_of())}),
    "too long": proof(claims=CLAIMS | {"x": "y" * PROOF_BYTES_MAX}),
    "cut": proof()[:-3],
    "empty": "",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_anything_else_proves_nothing(text: str) -> None:
    with pytest.raises(TokenInvalid):
        read(text)


def test_where_there_is_no_token_yet_none_is_named() -> None:
    read(proof(claims=without(CLAIMS, "ath")), token=None)


@given(st.text(max_size=200))
def test_text_proves_nothing(text: str) -> None:
    with pytest.raises(TokenInvalid):
        read(text)


def test_each_is_good_once() -> None:
    used = Used()
    used.once(read(proof()), now_s=NOW_S)
    with pytest.raises(TokenInvalid):
        used.once(read(proof()), now_s=NOW_S + 1)
    used.once(read(proof(claims=CLAIMS | {"jti": "p2"})), now_s=NOW_S)
    other = proof(HEADER | {"jwk": jwk_of(STRANGER)}, key=STRANGER)
    used.once(read(other), now_s=NOW_S)  # Another's id of the same name is another.


def test_only_so_many_are_remembered_and_beyond_nobody_is_let_in_unchecked() -> None:
    used = Used(remembered_max=3)
    for number in range(3):
        used.once(Proof("t", str(number), NOW_S + number), now_s=NOW_S - 1)
    with pytest.raises(AuthUnavailable):
        used.once(Proof("t", "next", NOW_S + 60), now_s=NOW_S - 1)
    with pytest.raises(TokenInvalid):  # And what came before is still known.
        used.once(Proof("t", "2", NOW_S + 60), now_s=NOW_S - 1)
    used.once(Proof("t", "next", NOW_S + 60), now_s=NOW_S + 1)  # Two of them are good no more.
