"""Over any token: what it opens, and that no less of a token ever opens more (A11)."""

import base64
import json
import string
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import MeshError, TokenInvalid
from services.common.grpc.caller import permit
from services.common.policy import POLICY, Access
from services.common.revoked import DenyList, Kind, Revocation
from services.common.tokens import verify
from tests.unit.test_tokens import CLAIMS, HEADER, KEYS, NOW_S, ORDER, encoded, signed, without

SERVICES = ("auth", "agent", "inference", "sandbox")
TOKEN_ROWS = {method: row for method, row in POLICY.items() if row.audience is not None}
ALPHABET = string.ascii_letters + string.digits + "-_"

subsets = st.lists(st.sampled_from(SERVICES), unique=True)
tokens = st.builds(
    lambda role, aud, scope: CLAIMS | {"role": role, "aud": aud, "scope": " ".join(scope)},
    st.sampled_from(["user", "admin"]),
    subsets,
    subsets,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def opened_by(claims: Mapping[str, Any], *, header: Mapping[str, Any] = HEADER) -> set[str]:
    """The methods that a token with these claims may call, wherever it is shown."""
    token, found = signed(header, claims), set()
    for service in SERVICES:
        try:
            known = verify(token, KEYS, issuer="http://ollamesh", audience=service, now_s=NOW_S)
        except MeshError:
            continue
        for method, row in TOKEN_ROWS.items():
            if row.audience == service:
                try:
                    permit(row, known)
                except MeshError:
                    continue
                found.add(method)
    return found


@given(tokens)
def test_a_token_opens_exactly_what_its_role_audience_and_scope_say(claims: dict[str, Any]) -> None:
    assert opened_by(claims) == {
        method
        for method, row in TOKEN_ROWS.items()
        if row.audience in claims["aud"]
        and row.scope in claims["scope"].split()
        and (row.access is Access.USER or claims["role"] == "admin")
    }


@given(tokens, st.sampled_from(sorted(CLAIMS)))
def test_nothing_is_gained_by_losing_a_claim(claims: dict[str, Any], name: str) -> None:
    assert opened_by(without(claims, name)) <= opened_by(claims)


@given(tokens, st.text(string.ascii_letters + "_", min_size=1, max_size=12).filter(lambda n: n not in CLAIMS))
def test_nothing_is_gained_by_another_claim(claims: dict[str, Any], name: str) -> None:
    for value in ("admin", ["admin"], True, {"role": "admin"}, {"sub": "service:auth"}):
        assert opened_by(claims | {name: value}) <= opened_by(claims)


@given(tokens)
def test_nothing_is_gained_by_saying_who_acts_or_what_binds(claims: dict[str, Any]) -> None:
    for more in (
        {"act": {"sub": "service:auth"}},
        {"cnf": {"jkt": "x"}},
        {"sid": "s"},
        {"api_key": "k"},
        {"roles": ["admin"]},
        {"is_admin": True},
        {"permissions": sorted(POLICY)},
    ):
        assert opened_by(claims | more) <= opened_by(claims)


@given(tokens, st.sampled_from(["role", "scope", "aud"]), json_values)
def test_a_claim_of_another_kind_opens_nothing_that_its_own_words_do_not(
    claims: dict[str, Any], name: str, value: object
) -> None:
    if value not in ("user", "admin", ""):
        assert opened_by(claims | {name: value}) == set()


@given(tokens)
def test_nobody_rises_by_being_lowered(claims: dict[str, Any]) -> None:
    whole = opened_by(claims)
    assert opened_by(claims | {"role": "user"}) <= whole
    for name in claims["aud"]:
        assert opened_by(claims | {"aud": [kept for kept in claims["aud"] if kept != name]}) <= whole
    for name in claims["scope"].split():
        fewer = " ".join(kept for kept in claims["scope"].split() if kept != name)
        assert opened_by(claims | {"scope": fewer}) <= whole


@pytest.mark.parametrize("role", ["user", "admin"])
def test_no_token_of_any_kind_makes_a_service_of_its_bearer(role: str) -> None:
    inner = {method for method, row in POLICY.items() if row.access is Access.SERVICE}
    service = {"sub": "service:inference", "user_id": "service:inference", "client_id": "inference"}
    everywhere = {"role": role, "aud": list(SERVICES), "scope": " ".join(SERVICES)}
    assert inner
    assert not opened_by(CLAIMS | service | everywhere) & inner


@given(st.data())
def test_no_character_of_a_token_can_be_changed(data: st.DataObject) -> None:
    """Put in, left out or replaced anywhere; also in the signature's last one, of which some bits say nothing."""
    token = signed(HEADER, CLAIMS)
    at = data.draw(st.integers(0, len(token) - 1))
    stray = data.draw(st.sampled_from(ALPHABET + ".=+/ \n\0"))
    for changed in (token[:at] + stray + token[at:], token[:at] + token[at + 1 :],
                    token[:at] + stray + token[at + 1 :], token[:at] + token[at].swapcase() + token[at + 1 :]):  # fmt: skip
        if changed != token:
            with pytest.raises(TokenInvalid):
                verify(changed, KEYS, issuer="http://ollamesh", audience="auth", now_s=NOW_S)


@given(tokens)
def test_a_claim_that_is_changed_after_signing_opens_nothing(claims: dict[str, Any]) -> None:
    head, _, signature = signed(HEADER, claims).split(".")
    for name, value in (("role", "admin"), ("aud", list(SERVICES)), ("exp", CLAIMS["exp"] + 1)):
        if claims[name] != value:
            forged = f"{head}.{encoded(json.dumps(claims | {name: value}).encode())}.{signature}"
            with pytest.raises(TokenInvalid):
                verify(forged, KEYS, issuer="http://ollamesh", audience="auth", now_s=NOW_S)


def test_the_one_rewriting_that_needs_no_key_is_the_same_token_to_the_deny_list() -> None:
    """(r, -s) is a signature as good as (r, s). What is revoked is revoked however it is written."""
    token = signed(HEADER, CLAIMS)
    body, _, signature = token.rpartition(".")
    raw = _decoded(signature)
    turned = raw[:32] + (ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    denied = DenyList()
    denied.add([Revocation(kind=Kind.TOKEN, id=CLAIMS["jti"], forget_at_s=NOW_S + 600)], now_s=NOW_S)
    for spelled in (token, f"{body}.{encoded(turned)}"):
        found = verify(spelled, KEYS, issuer="http://ollamesh", audience="auth", now_s=NOW_S)
        assert denied.denies(found)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "==")
