"""What looks like a secret is taken out of a text, wherever it is in it, and what is none stays."""

import base64
import hashlib
import json
import os
import secrets
import time
from enum import Enum

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from services.auth.core.api_keys import DETECTOR
from services.auth.core.mandates import PREFIX as MANDATE
from services.auth.core.refresh import PREFIX as REFRESH
from services.common.logs.redaction import CHARS_MAX, REDACTED, Redactor

FERNET = Fernet.generate_key().decode()
PEM = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    .decode()
)


def _jwt() -> str:
    parts = (json.dumps({"alg": "ES256", "kid": "k"}), json.dumps({"sub": "user-1"}), secrets.token_hex(40))
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


# Kind, the text in which it stands, and what of it must be gone.
PLANTED = {
    "JWT": (token := _jwt(), token),
    "Bearer": ("metadata: authorization: Bearer abcdef0123456789", "abcdef0123456789"),
    "Basic": ("sent Authorization: Basic dXNlcjpodW50ZXIy", "dXNlcjpodW50ZXIy"),
    "DPoP": (f"DPoP {secrets.token_urlsafe(20)}~x was refused", "~x was"),
    "API key": (
        key := f"omk_live_{'0aB3dE5fG7hI'}_{'x7' * 18}",
        key,
    ),
    "refresh token": (refresh := REFRESH + base64.urlsafe_b64encode(os.urandom(48)).decode(), refresh),
    "mandate": (mandate := f"{MANDATE}{secrets.token_urlsafe(32)}", mandate),
    "vendor key": ("used sk-proj-aaaaaaaaaaaaaaaaaaaaaaaa today", "aaaaaaaaaaaaaaaaaaaaaaaa"),
    "GitHub token": (f"ghp_{'a1B2' * 9}", "a1B2a1B2"),
    "AWS key": ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
    "password in a DSN": ("postgresql://auth:hunter2@db:5432/x is away", "hunter2"),
    "password in REDIS_URL": ("redis://:hunter2@127.0.0.1:6379/0", "hunter2"),
    "password named": ('login failed: {"username": "u", "password": "hunter2"}', "hunter2"),
    "password in a form": ("grant_type=password&password=hunter2&scope=x", "hunter2"),
    "client secret": (f"client_secret={secrets.token_urlsafe(32)}!end", "!end"),
    "SECRET_KEY": ("SECRET_KEY='correct horse'", "correct"),
    "Fernet key": (f"keys {FERNET}, 2 of them", FERNET),
    "sealed value": (sealed := Fernet(FERNET).encrypt(b"x").decode(), sealed),
    "private key": (f"tls: {PEM} unreadable", PEM.splitlines()[1]),
    "cut private key": (PEM[:90], PEM.splitlines()[1][:30]),
    "code in a callback": ("GET /callback?code=Splx10BeZQQYbYS6WxSbIA&state=xyz", "Splx10BeZQQYbYS6WxSbIA"),
    "cookie": ("Cookie: session=abcdefgh; theme=dark", "abcdefgh"),
    "password's digest": ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA", "c2FsdA"),
    "random and long": (opaque := "Aa0-" + secrets.token_urlsafe(40), opaque),
    "address": ("invited alice.b+x@mail.example.org", "alice.b+x@mail.example.org"),
}
INNOCENT = [
    "QUEUE_FULL",
    "/ollamesh.inference.v1.InferenceService/Chat",
    "3f0c9b2e-7d5c-4f5b-9a3e-0d6f2f9a1b7c",
    "4bf92f3577b34da6a3ce929d0e0e4736",
    hashlib.sha256(b"an event").hexdigest(),
    "qwen2.5-coder:32b-instruct-q4_K_M",
    "set DATABASE_URL",
    "DATABASE_URL is not set",
    "the access token is missing or not valid here",
    "it needs at least 32 bytes",
    "http://127.0.0.1:11434",
    "/var/lib/ollamesh/audit/auth-head.json",
]


@pytest.mark.parametrize("kind", PLANTED)
def test_what_looks_like_a_secret_is_taken_out(kind: str) -> None:
    text, secret = PLANTED[kind]
    assert secret in text
    for around in (text, f"before {text}", f"{text} after", f'"{text}"', f"x\n{text}\ny", f"({text})"):
        cleaned = Redactor().clean(around)
        assert secret not in cleaned, around
        assert REDACTED in cleaned


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_none_stays(text: str) -> None:
    assert Redactor().clean(text) == text


@given(st.from_regex(DETECTOR, fullmatch=True))
def test_all_that_the_detector_of_our_keys_finds_is_taken_out(key: str) -> None:
    assert Redactor().clean(f"key {key} refused") == f"key {REDACTED} refused"


def test_what_is_known_is_taken_out_whatever_it_looks_like() -> None:
    redactor = Redactor()
    redactor.learn(["correct horse battery", "short", ""])
    assert redactor.clean("it was correct horse battery staple") == f"it was {REDACTED} staple"
    assert redactor.clean("a short word") == "a short word"


def test_fields_with_such_names_are_taken_out() -> None:
    redactor = Redactor()
    for name in ("password", "client_secret", "refresh_token", "x_api_key", "Authorization"):
        assert redactor.field(name, "hunter2") == REDACTED, name
        assert redactor.field("args", {"inner": {name: "hunter2"}}) == {"inner": {name: REDACTED}}
    for name in ("token_id", "key_id", "prompt_token_count", "secret_count"):
        assert redactor.field(name, "abc") == "abc", name


class Colour(Enum):
    RED = 1


def test_values_of_any_kind_are_bounded() -> None:
    redactor = Redactor()
    deep: object = "hunter2"
    for _ in range(100):
        deep = [deep]
    assert "hunter2" not in str(redactor.field("deep", deep))
    assert len(str(redactor.field("wide", list(range(100_000))))) < 1000
    long = redactor.field("long", "a b " * 100_000)
    assert isinstance(long, str)
    assert len(long) < CHARS_MAX + 100
    assert redactor.field("colour", Colour.RED) == "RED"
    assert redactor.field("bytes", b"hunter2") is not None


@given(st.text(max_size=400))
def test_it_takes_any_text(text: str) -> None:
    assert isinstance(Redactor().clean(text), str)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 2000,
        "a-" * 1000,
        "Aa0" * 600,
        "eyJ" * 600,
        "-----BEGIN PRIVATE KEY" * 80,
        "://" * 600,
        "x=" * 900,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """Patterns that go back and forth take seconds or hours for some text: bounded by far here."""
    began_s = time.process_time()
    Redactor().clean(text)
    assert time.process_time() - began_s < 5
