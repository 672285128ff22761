"""The families of Project Wycheproof's JSON Web Signature and JSON Web Key vectors, made anew for our keys.

No wheel carries those vectors, so each family is generated here, from one seed: the faults are Wycheproof's (its test
names stand beside them), the keys and the messages ours. `services/common/jws.py` and `jwk.py` must accept what is
valid and refuse the rest.
"""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from services.common.jwk import key_set, public_key
from services.common.jws import Malformed, parse

SEED = 20261129
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
RANDOM = random.Random(SEED)
PRIVATE = ec.derive_private_key(RANDOM.randrange(1, ORDER), ec.SECP256R1())
STRANGER = ec.derive_private_key(RANDOM.randrange(1, ORDER), ec.SECP256R1())
ECDSA = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
HEADER = b'{"alg":"ES256","kid":"es256-key"}'


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jwk_of(private: ec.EllipticCurvePrivateKey, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return found | {"kid": "es256-key", "alg": "ES256", "use": "sig"} | more


KEY = public_key(jwk_of(PRIVATE))


def numbers(signed: bytes, private: ec.EllipticCurvePrivateKey = PRIVATE) -> tuple[int, int]:
    return decode_dss_signature(private.sign(signed, ECDSA))


def raw(r: int, s: int, size: int = 32) -> bytes:
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def signed(header: bytes = HEADER, payload: bytes = b"Test", private: Any = PRIVATE) -> str:
    text = f"{encoded(header)}.{encoded(payload)}"
    return f"{text}.{encoded(raw(*numbers(text.encode(), private)))}"


def accepts(text: str) -> bool:
    try:
        return parse(text, bytes_max=8192).is_signed_by(KEY)
    except Malformed:
        return False


VALID = signed()
HEAD, BODY, SIGNATURE = VALID.split(".")
R, S = numbers(f"{HEAD}.{BODY}".encode())


def with_signature(r: int, s: int, size: int = 32) -> str:
    return f"{HEAD}.{BODY}.{encoded(raw(r, s, size))}"


@pytest.mark.parametrize(
    "text",
    [
        VALID,
        signed(b'{ "alg" : "ES256" , "kid" : "es256-key" }'),  # ValidSpacesInJsonHeader
        signed(b'\n{\t"alg":\r\n"ES256"}\n'),  # ValidWhiteSpaceInJsonHeader
        signed(payload=b"\0\xff" * 100),
        with_signature(R, ORDER - S),  # The other signature that anybody can make of it: a valid one.
    ],
)
def test_what_is_valid_is_accepted(text: str) -> None:
    assert accepts(text)


def confused(secret: bytes) -> str:
    text = f"{encoded(HEADER.replace(b'ES256', b'HS256'))}.{BODY}"
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256))}"


POINT = PRIVATE.public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
)
PEM = PRIVATE.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
EMBEDDED = json.dumps({"alg": "ES256", "jwk": jwk_of(STRANGER)}).encode()
NONE, NONE_IN_OTHER_LETTERS = (encoded(b'{"alg":"%s"}' % name) for name in (b"none", b"nOnE"))
FLATTENED = json.dumps({"protected": HEAD, "payload": BODY, "signature": SIGNATURE})
GENERAL = json.dumps({"payload": BODY, "signatures": [{"protected": HEAD, "signature": SIGNATURE}]})
INVALID = {
    "rejectsModifiedSignature": f"{HEAD}.{BODY}.{encoded(raw(R ^ 1, S))}",
    "rejectsMissingSignature": f"{HEAD}.{BODY}.",
    "rejectsMissingSignatureAndSeparator": f"{HEAD}.{BODY}",
    "rejectsModifiedPayload": f"{HEAD}.{encoded(b'Tesu')}.{SIGNATURE}",
    "rejectsMissingPayload": f"{HEAD}..{SIGNATURE}",
    "rejectsMissingPayloadAndSeparator": f"{HEAD}.{SIGNATURE}",
    "rejectsModifiedHeader": f"{encoded(HEADER.replace(b'key', b'kez'))}.{BODY}.{SIGNATURE}",
    "rejectsMissingHeader": f".{BODY}.{SIGNATURE}",
    "rejectsMissingHeaderAndSeparator": f"{BODY}.{SIGNATURE}",
    "rejectsMissingHeaderAndSignature": f".{BODY}.",
    "rejectsMissingHeaderSignatureAndSeparators": BODY,
    "rejectsEmptyString": "",
    "rejectsExtraEmptyComponent": f"{VALID}.",
    "rejectsExtraComponent": f"{VALID}.{SIGNATURE}",
    "rejectsNoneAlgorithm": f"{NONE}.{BODY}.{SIGNATURE}",
    "rejectsNoneAlgorithmAndMissingSignature": f"{NONE}.{BODY}.",
    "rejectsNoneInOtherLetters": f"{NONE_IN_OTHER_LETTERS}.{BODY}.",
    "rejectsValidJsonSerialization": FLATTENED,
    "rejectsGeneralJsonSerialization": GENERAL,
    "rejectsSymmetryConfusionAttacks_point": confused(POINT),
    "rejectsSymmetryConfusionAttacks_coordinates": confused(POINT[1:]),
    "rejectsSymmetryConfusionAttacks_pem": confused(PEM),
    "rejectsSymmetryConfusionAttacks_empty": confused(b""),
    "rejectsAttackerProvidedEmbeddedJwk": signed(EMBEDDED, private=STRANGER),
    "rejectsWrongAlgorithmOfSameKey": signed(HEADER.replace(b"ES256", b"ES512")),
    "rejectsSignatureOfAnotherKey": signed(private=STRANGER),
    "SignatureTooLong": f"{HEAD}.{BODY}.{encoded(raw(R, S) + b'x')}",
    "SignatureTooShort": f"{HEAD}.{BODY}.{encoded(raw(R, S)[:-1])}",
    "TrailingZeros": f"{HEAD}.{BODY}.{encoded(raw(R, S) + bytes(2))}",
    "LeadingZerosInBoth": with_signature(R, S, 33),
    "RisTooBig": with_signature(R + ORDER, S, 33),
    "SisTooBig": with_signature(R, S + ORDER, 33),
    "IntegerOverflow_r": with_signature(R + 2**256, S, 34),
    "IntegerOverflow_s": with_signature(R, S + 2**256, 34),
    "BufferOverflow": f"{HEAD}.{BODY}.{encoded(raw(R, S) + bytes(4000))}",
    "SignatureInDer": f"{HEAD}.{BODY}.{encoded(PRIVATE.sign(VALID.encode(), ECDSA))}",
    "SwappedParts": with_signature(S, R),
    "duplicateMember": signed(b'{"alg":"none","alg":"ES256"}'),
    "duplicateMemberInside": signed(b'{"alg":"ES256","x":{"a":1,"a":1}}'),
    "notAnObject": signed(b'["ES256"]'),
    "notANumber": signed(b'{"alg":"ES256","x":NaN}'),
    "inUtf16": signed(HEADER.decode().encode("utf-16")),
    "withByteOrderMark": signed(b"\xef\xbb\xbf" + HEADER),
    "trailingText": signed(HEADER + b"{}"),
    "deep": signed(b"[" * 3000),
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_what_is_invalid_is_refused(text: str) -> None:
    assert not accepts(text)


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER])
@pytest.mark.parametrize("s", [0, 1, ORDER - 1, ORDER])
def test_no_special_number_is_a_signature(r: int, s: int) -> None:
    assert not accepts(with_signature(r, s))


def spellings(part: str) -> Iterator[str]:
    """Other ways to write the same bytes, or nearly: what a lenient decoder takes for `part`."""
    for stray in " \t\r\n\v\f=+/%&*-_\0~":
        for at in (0, len(part) // 2, len(part)):
            yield part[:at] + stray + part[at:]
    yield part + "=" * (-len(part) % 4)
    yield part + "===="
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for unused in range(1, 2 ** ({2: 4, 3: 2}.get(len(part) % 4, 0))):
        yield part[:-1] + alphabet[alphabet.index(part[-1]) | unused]
    yield part.replace("-", "+").replace("_", "/")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_there_is_one_spelling_of_each_part(place: int) -> None:
    """spacesInHeader, invalidCharactersInPayload, invalidBase64Padding, ModifiedUnusedBits, rejectsSpacesInMac ..."""
    for text in [signed(payload=b"x" * length) for length in range(1, 7)]:
        parts = text.split(".")
        for other in spellings(parts[place]):
            if other != parts[place]:
                changed = [*parts[:place], other, *parts[place + 1 :]]
                assert not accepts(".".join(changed)), other


def bent(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    jwk = jwk_of(PRIVATE)
    change(jwk)
    return jwk


X, Y = (base64.urlsafe_b64decode(jwk_of(PRIVATE)[name] + "=") for name in "xy")
P384 = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
SECRET_PART = jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE, as_dict=True)
BAD_KEYS: dict[str, dict[str, Any]] = {
    "rejectsWrongUse": jwk_of(PRIVATE, use="enc"),
    "rejectsWrongKeyOps": jwk_of(PRIVATE, key_ops=["encrypt"]),
    "rejectsSigningKeyOps": jwk_of(PRIVATE, key_ops=["sign", "verify"]),
    "mismatchedAlgAndCurve_ES521": jwk_of(PRIVATE, alg="ES521"),
    "mismatchedAlgAndCurve_ES224": jwk_of(PRIVATE, alg="ES224"),
    "algorithmOfSecrets": jwk_of(PRIVATE, alg="HS256"),
    "invalid_point": jwk_of(PRIVATE, y=encoded(Y[:-1] + bytes([Y[-1] ^ 1]))),
    "point_at_infinity": jwk_of(PRIVATE, x=encoded(bytes(32)), y=encoded(bytes(32))),
    "coordinate_beyond_the_field": jwk_of(PRIVATE, x=encoded(b"\xff" * 32)),
    "coordinate_too_short": jwk_of(PRIVATE, x=encoded(X[:-1])),
    "coordinate_with_leading_zero": jwk_of(PRIVATE, x=encoded(b"\0" + X)),
    "coordinate_with_padding": jwk_of(PRIVATE, x=encoded(X) + "="),
    "coordinate_is_a_number": jwk_of(PRIVATE, x=1),
    "coordinate_is_missing": bent(lambda jwk: jwk.__delitem__("y")),
    "wrong_curve": jwk_of(PRIVATE, crv="P-384"),
    "curve_of_bitcoin": jwk_of(PRIVATE, crv="secp256k1"),
    "wrong_kty": jwk_of(PRIVATE, kty="RSA"),
    "kty_is_missing": bent(lambda jwk: jwk.__delitem__("kty")),
    "another_curve_whole": P384,
    "private_key": SECRET_PART,
    "rejectsAesKey": {"kty": "oct", "alg": "A256GCM", "use": "sig", "k": encoded(bytes(32))},
    "key_too_short": {"kty": "oct", "alg": "HS256", "k": encoded(b"short")},
    "empty_key": {"kty": "oct", "alg": "HS256", "k": ""},
}


@pytest.mark.parametrize("jwk", BAD_KEYS.values(), ids=BAD_KEYS)
def test_no_other_key_verifies_anything(jwk: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        public_key(jwk)
    good = jwk_of(STRANGER, kid="good")
    assert list(key_set(json.dumps({"keys": [good, jwk | {"kid": "bad"}]}).encode())) == ["good"]


@pytest.mark.parametrize("optional", ["alg", "use", "kid"])
def test_a_key_need_not_say_what_it_is_for(optional: str) -> None:
    assert public_key(bent(lambda jwk: jwk.__delitem__(optional))).algorithm_name == "ES256"


@pytest.mark.parametrize(
    "document",
    [
        {"keys": [jwk_of(PRIVATE), jwk_of(STRANGER)]},  # rejectsDuplicateKid
        {"keys": [jwk_of(PRIVATE), {"kty": "oct", "k": "eA", "kid": "es256-key"}]},
        {"keys": [bent(lambda jwk: jwk.__delitem__("kid"))]},
        {"keys": [jwk_of(PRIVATE, kid=1)]},
        {"keys": {"es256-key": jwk_of(PRIVATE)}},
        {"keys": ["es256-key"]},
        {"keys": [jwk_of(PRIVATE, kid=str(number)) for number in range(65)]},
        {},
        [],
    ],
)
def test_a_set_that_cannot_be_meant_is_refused_whole(document: Any) -> None:
    with pytest.raises(Malformed):
        key_set(json.dumps(document).encode())
