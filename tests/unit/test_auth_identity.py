"""A token never says more than its owner may, and what is minted is what the services accept."""

import jwt
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from services.auth.adapters.es256 import Es256Locksmith
from services.auth.core.claims import LIFETIME_MAX_S, access_claims, period
from services.auth.core.identity import (
    SCOPES,
    Identity,
    Role,
    ScopeNotHeld,
    is_client_id,
    is_username,
    lowered,
    narrowed,
    service_user_id,
)
from services.common.errors import RoleRequired, TokenInvalid
from services.common.tokens import LIFETIME_MAX_S as VERIFIER_LIFETIME_MAX_S
from services.common.tokens import Role as VerifiedRole
from services.common.tokens import verify

RANK = {Role.USER: 0, Role.ADMIN: 1}
LOCKSMITH = Es256Locksmith((Fernet.generate_key().decode(),))
KEY = LOCKSMITH.open(*LOCKSMITH.make())
assert KEY is not None
PUBLIC = {KEY.key_id: jwt.PyJWK(KEY.public_jwk, algorithm="ES256")}

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
scope_sets = st.frozensets(st.sampled_from(sorted(SCOPES)), min_size=1)
identities = st.builds(
    Identity,
    user_id=names.map("user:{}".format),
    role=st.sampled_from(Role),
    organization_id=names,
    project_id=names,
    client_id=names,
    scopes=scope_sets,
)


@given(identities, st.none() | st.sampled_from(Role))
def test_a_role_is_lowered_or_refused(identity: Identity, wanted: Role | None) -> None:
    if wanted is not None and RANK[wanted] > RANK[identity.role]:
        with pytest.raises(RoleRequired):
            lowered(identity, wanted)
    else:
        assert lowered(identity, wanted).role is (wanted or identity.role)


@given(identities, scope_sets | st.just(frozenset[str]()) | st.just(frozenset({"mesh"})))
def test_scopes_are_narrowed_or_refused(identity: Identity, wanted: frozenset[str]) -> None:
    if wanted <= identity.scopes:
        assert narrowed(identity, wanted).scopes == (wanted or identity.scopes)
    else:
        with pytest.raises(ScopeNotHeld):
            narrowed(identity, wanted)


@given(
    identities,
    st.floats(0, 4e9),
    st.none() | st.floats(0.001, 1e6),
    st.floats(0, 1, exclude_max=True),
)
def test_whatever_is_minted_the_services_read_back(
    identity: Identity, now_s: float, lifetime_s: float | None, elapsed: float
) -> None:
    valid = period(now_s, lifetime_s)
    lives_s = valid.expires_at_s - valid.issued_at_s
    assert 1 <= lives_s <= LIFETIME_MAX_S == VERIFIER_LIFETIME_MAX_S
    assert lifetime_s is None or lives_s <= max(1, lifetime_s)
    token = KEY.sign(access_claims(identity, valid, issuer="http://ollamesh", token_id="t1"))  # type: ignore[union-attr]
    read_at_s = valid.issued_at_s + elapsed * lives_s
    for other in SCOPES - identity.scopes:
        with pytest.raises(TokenInvalid):
            verify(token, PUBLIC, issuer="http://ollamesh", audience=other, now_s=read_at_s)
    audience = min(identity.scopes)
    found = verify(token, PUBLIC, issuer="http://ollamesh", audience=audience, now_s=read_at_s)
    assert (found.user_id, found.role.value) == (identity.user_id, identity.role.value)
    assert (found.organization_id, found.project_id) == (identity.organization_id, identity.project_id)
    assert (found.client_id, found.scopes) == (identity.client_id, identity.scopes)
    assert not found.is_service


def test_the_roles_that_are_minted_are_those_that_are_verified() -> None:
    assert {role.value for role in Role} == {role.value for role in VerifiedRole}


@given(st.text(max_size=160))
def test_only_names_that_the_schema_knows_reach_the_store(name: str) -> None:
    for known in (is_username(name), is_client_id(name)):
        if known:
            assert name.isascii()
            assert name == name.lower()
            assert name.isprintable()
            assert len(name) <= 128


def test_the_longest_client_id_still_makes_a_user_id_that_a_token_can_hold() -> None:
    longest = "a" * 120
    assert is_client_id(longest)
    assert not is_client_id(longest + "a")
    assert len(service_user_id(longest)) == 128
