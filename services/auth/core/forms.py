"""What comes in over HTTP, read strictly: forms, client authentication, cookies. Raises OAuthError or finds nothing."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus

from services.auth.core.oauth import OAuthError, refusal
from services.auth.errors import CredentialsInvalid

FORM = "application/x-www-form-urlencoded"
BODY_BYTES_MAX = 16_384
FIELD_COUNT_MAX = 32
CLIENT_ID_MAX = 128
SECRET_BYTES_MAX = 1024
COOKIES_LENGTH_MAX = 8192
_MAY_REPEAT = frozenset({"audience", "resource"})  # RFC 8693 section 2.1.


@dataclass(frozen=True, slots=True)
class Form:
    """A form's fields, each once, but for those that an RFC lets repeat."""

    fields: Mapping[str, tuple[str, ...]] = field(repr=False)

    def get(self, name: str) -> str:
        """The field's value, or an empty string."""
        return self.fields[name][0] if name in self.fields else ""

    def need(self, name: str) -> str:
        if name not in self.fields:
            raise OAuthError("invalid_request", f"{name} is missing")
        return self.get(name)

    def all(self, name: str) -> tuple[str, ...]:
        return self.fields.get(name, ())


@dataclass(frozen=True, slots=True)
class ClientProof:
    """Who a client says that it is. A public client has no secret."""

    client_id: str
    secret: str | None = field(repr=False)


def read_form(content_type: str, body: bytes) -> Form:
    if content_type.partition(";")[0].strip().lower() != FORM:
        raise OAuthError("invalid_request", f"the body must be {FORM}")
    if len(body) > BODY_BYTES_MAX:
        raise OAuthError("invalid_request", "the form is too long")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELD_COUNT_MAX, errors="strict"
        )
    except ValueError:
        raise OAuthError("invalid_request", "the form cannot be read") from None
    return form_of(pairs)


def form_of(pairs: Sequence[tuple[str, str]]) -> Form:
    fields: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if name in fields and name not in _MAY_REPEAT:
            raise OAuthError("invalid_request", "a field is given more than once")
        fields[name] = (*fields.get(name, ()), value)
    # A field without a value is as good as none (RFC 6749 section 3.1).
    return Form({name: values for name, values in fields.items() if any(values)})


def read_client(form: Form, authorization: Sequence[str]) -> ClientProof:
    """The client's name and secret, from the header or from the form, but not from both."""
    proof = _in_form(form) if not authorization else _in_header(form, authorization)
    if len(proof.client_id) > CLIENT_ID_MAX or len((proof.secret or "").encode()) > SECRET_BYTES_MAX:
        raise refusal(CredentialsInvalid())
    return proof


def read_cookie(headers: Sequence[str], name: str) -> str | None:
    """The value of a cookie; None if there is none, or more than one and so no telling whose is whose."""
    text = "; ".join(headers)
    if len(text) > COOKIES_LENGTH_MAX:
        return None
    pairs = (pair.strip().partition("=") for pair in text.split(";"))
    found = [value for key, sign, value in pairs if sign and key == name]
    return found[0] if len(found) == 1 else None


def _in_form(form: Form) -> ClientProof:
    client_id = form.get("client_id")
    if not client_id:
        raise refusal(CredentialsInvalid())
    return ClientProof(client_id, form.get("client_secret") or None)


def _in_header(form: Form, authorization: Sequence[str]) -> ClientProof:
    if form.get("client_secret") or len(authorization) > 1:
        raise OAuthError("invalid_request", "the client authenticates in more than one way")
    proof = _basic(authorization[0])
    if form.get("client_id") not in {"", proof.client_id}:
        raise OAuthError("invalid_request", "the header and the form name different clients")
    return proof


def _basic(authorization: str) -> ClientProof:
    """RFC 7617, both halves form-encoded inside as RFC 6749 section 2.3.1 wants."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise refusal(CredentialsInvalid())
    try:
        name, _, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        client = unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError):
        raise refusal(CredentialsInvalid()) from None
    if not all(client):
        raise refusal(CredentialsInvalid())
    return ClientProof(*client)
