"""What a key looks like, who may have one, and that it never may more than its owner."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.core.api_keys import (
    ALPHABET,
    DETECTOR,
    ID_LENGTH,
    KEY_LENGTH_MAX,
    SECRET_LENGTH,
    ApiKey,
    Asker,
    Kept,
    KeyForm,
    Owner,
    Wish,
    check_may_end,
    for_service,
    granted,
    identity_of,
)
from services.auth.core.bucket import Bucket
from services.auth.core.identity import SCOPES, Identity, Role
from services.auth.errors import KeyScopeNotHeld, LoginRequired, NotFound
from services.common.errors import RoleRequired

environments = st.from_regex(r"[a-z][a-z0-9]{0,15}", fullmatch=True)
ids = st.text(ALPHABET, min_size=ID_LENGTH, max_size=ID_LENGTH)
drawn = st.text(ALPHABET, min_size=SECRET_LENGTH, max_size=SECRET_LENGTH)
roles = st.sampled_from(Role)
scopes = st.frozensets(st.sampled_from(sorted(SCOPES)))
LIVE = KeyForm("live", "s" * 32)
KEY = LIVE.written("a" * ID_LENGTH, "b" * SECRET_LENGTH)


def identity(role: Role = Role.USER, **other: object) -> Identity:
    usual: dict[str, object] = {"user_id": "user:ann", "organization_id": "acme", "project_id": "lab"}
    return Identity(**{**usual, "role": role, "client_id": "login", **other})  # type: ignore[arg-type]


def key(**other: object) -> ApiKey:
    usual: dict[str, object] = {
        "key_id": "a" * ID_LENGTH,
        "prefix": "omk_live_aaaaaaaaaaaa",
        "display_name": "mine",
        "user_id": "user:ann",
        "organization_id": "acme",
        "project_id": "lab",
        "role": Role.USER,
        "scopes": SCOPES,
        "created_at_s": 0.0,
        "expires_at_s": 100.0,
    }
    return ApiKey(**{**usual, **other})  # type: ignore[arg-type]


# ---- The text --------------------------------------------------------------------------------------


@given(environments, ids, drawn)
def test_what_is_written_is_read_and_detected(environment: str, key_id: str, secret: str) -> None:
    form = KeyForm(environment, "s" * 32)
    text = form.written(key_id, secret)
    presented = form.read(text)
    assert presented
    assert presented.key_id == key_id
    assert text.startswith(form.prefix(key_id))
    assert re.fullmatch(DETECTOR, text)
    assert len(text) <= KEY_LENGTH_MAX
    assert form.found_in(f"key='{text}'\n", count_max=5) == [presented]


@given(environments, ids, drawn, st.data())
def test_a_typo_is_noticed_without_asking_anybody(
    environment: str, key_id: str, secret: str, data: st.DataObject
) -> None:
    form = KeyForm(environment, "s" * 32)
    text = form.written(key_id, secret)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda found: found != text[place]))
    assert form.read(text[:place] + other + text[place + 1 :]) is None


@given(st.text() | st.binary().map(lambda found: found.decode("latin-1")))
def test_nothing_else_is_a_key(text: str) -> None:
    assert LIVE.read(text) is None
    assert LIVE.found_in(text, count_max=5) == []


@pytest.mark.parametrize(
    "text",
    [
        KEY + "\n",
        " " + KEY,
        KEY + "0",
        KEY[:-1],
        KEY.upper(),
        KEY.replace("omk", "Omk"),
        KEY.replace("a", "а"),  # noqa: RUF001 - Cyrillic.
        KEY[:-6] + "000000",
        KEY.replace("live", "test"),
    ],
)
def test_nearly_a_key_is_none(text: str) -> None:
    assert LIVE.read(text) is None


def test_a_key_of_another_environment_is_none_here() -> None:
    assert LIVE.read(KeyForm("test", "s" * 32).written("a" * ID_LENGTH, "b" * SECRET_LENGTH)) is None


def test_a_secret_has_more_than_128_bits() -> None:
    assert set(ALPHABET) == set(string.ascii_letters + string.digits)
    assert len(ALPHABET) ** SECRET_LENGTH > 2**128


def test_a_known_key_keeps_its_checksum() -> None:
    """Keys are out there: the format may not drift."""
    assert KEY == "omk_live_aaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb0uxsUl"


def test_at_most_so_many_are_found() -> None:
    texts = [LIVE.written(f"{n:012d}", "b" * SECRET_LENGTH) for n in range(9)]
    found = LIVE.found_in(" ".join(texts), count_max=4)
    assert [presented.key_id for presented in found] == [f"{n:012d}" for n in range(4)]


def test_digests_differ_by_key_and_by_pepper() -> None:
    presented, other = LIVE.read(KEY), LIVE.read(LIVE.written("a" * ID_LENGTH, "c" * SECRET_LENGTH))
    elsewhere = KeyForm("live", "t" * 32).read(KEY)
    assert presented
    assert other
    assert elsewhere
    assert presented.fits(Kept(key=key(), digest=presented.digest, owner=None))
    assert len({presented.digest, other.digest, elsewhere.digest}) == 3
    assert "digest" not in repr(presented)


# ---- Rights ----------------------------------------------------------------------------------------


@given(roles, scopes.filter(bool), st.none() | roles, scopes, st.sampled_from(["", "lab", "other"]))
def test_a_key_never_may_more_than_who_asks_for_it(
    role: Role, held: frozenset[str], wanted: Role | None, wished: frozenset[str], project: str
) -> None:
    asker = Asker(identity=identity(role, scopes=held))
    try:
        got = granted(asker, Wish(display_name="x", role=wanted, scopes=wished, project_id=project))
    except RoleRequired:
        assert role is Role.USER
        assert wanted is Role.ADMIN or project == "other"
    except KeyScopeNotHeld:
        assert not wished <= held
    else:
        assert got.scopes <= held
        assert not (got.role is Role.ADMIN and role is Role.USER)
        assert (got.user_id, got.organization_id) == ("user:ann", "acme")


@given(roles, roles, scopes, scopes, st.none() | st.just(1.0), st.floats(0, 200))
def test_a_key_never_may_more_than_its_owner_may_now(
    role: Role,
    owned: Role,
    held: frozenset[str],
    owner_held: frozenset[str],
    revoked_at_s: float | None,
    now_s: float,
) -> None:
    kept = Kept(
        key=key(role=role, scopes=held, revoked_at_s=revoked_at_s),
        digest=b"",
        owner=Owner(role=owned, scopes=owner_held),
    )
    got = identity_of(kept, now_s)
    if got is None:
        assert revoked_at_s or now_s >= 100
        return
    assert not revoked_at_s
    assert got.scopes <= held & owner_held
    assert not (got.role is Role.ADMIN and Role.USER in {role, owned})
    assert got.client_id != "login"
    for service in SCOPES:
        there = for_service(got, service)
        assert (there is None) == (service not in got.scopes)
        reached = {service, "inference", "sandbox"} if service == "agent" else {service}
        assert there is None or there.scopes == got.scopes & reached


def test_the_key_of_a_disabled_owner_is_dead() -> None:
    assert identity_of(Kept(key=key(), digest=b"", owner=None), 1.0) is None


@pytest.mark.parametrize("asker", [{"key_id": "k"}, {"acted_for": True}])
def test_only_a_login_makes_keys(asker: dict[str, object]) -> None:
    with pytest.raises(LoginRequired):
        granted(Asker(identity=identity(Role.ADMIN), **asker), Wish(display_name="x"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asker", "fails"),
    [
        (Asker(identity=identity()), None),
        (Asker(identity=identity(user_id="user:bob")), NotFound),
        (Asker(identity=identity(Role.ADMIN, user_id="user:bob")), None),
        (Asker(identity=identity(Role.ADMIN, organization_id="other")), NotFound),
        (Asker(identity=identity(organization_id="other")), NotFound),
        (Asker(identity=identity(), key_id="a" * ID_LENGTH), None),
        (Asker(identity=identity(Role.ADMIN), key_id="z" * ID_LENGTH), LoginRequired),
        (Asker(identity=identity(), acted_for=True), LoginRequired),
    ],
)
def test_who_may_end_a_key(asker: Asker, fails: type[Exception] | None) -> None:
    if fails is None:
        check_may_end(asker, key())
        return
    with pytest.raises(fails):
        check_may_end(asker, key())


# ---- Rates -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 5), max_size=60))
def test_a_bucket_never_gives_more_than_its_rate(pauses: list[float]) -> None:
    bucket, now_s, taken = Bucket(per_s=2, burst=3), 100.0, 0
    for pause_s in pauses:
        now_s += pause_s
        wait_s = bucket.take(now_s)
        taken += wait_s is None
        assert wait_s is None or 0 < wait_s <= 0.5
    assert taken <= 3 + 2 * (now_s - 100.0) + 1e-6
