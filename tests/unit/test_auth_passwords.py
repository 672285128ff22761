"""Which passwords are good enough, and who may change whom."""

import unicodedata
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.adapters.common_passwords import common_passwords
from services.auth.core.identity import Role
from services.auth.core.passwords import BYTES_MAX, CHARACTERS_MIN, normalised, weakness
from services.auth.core.people import (
    Actor,
    check_founds,
    check_grants,
    check_resets,
)
from services.auth.core.request_digest import RequestDigest
from services.common.errors import RoleRequired
from services.common.policy import FOUNDING_ORGANIZATION

COMMON = common_passwords()


def actor(role: Role, organization_id: str = FOUNDING_ORGANIZATION) -> Actor:
    return Actor(user_id="user:1", role=role, organization_id=organization_id, project_id="default")


@pytest.mark.parametrize(
    "password",
    [
        *("password1234", "Password2026!", "P@ssw0rdP@ssw0rd", "passwordpassword", "PASSWORD PASSWORD"),
        *("qwertyuiopas", "1q2w3e4r5t6y", "qwerty123456", "123456789012", "210987654321", "abcdefghijkl"),
        *("aaaaaaaaaaaa", "abcabcabcabc", "welcome ollama", "letmein-letmein", "iloveyou1234"),
        *("administrator", "admin_admin_admin", "Summer-2026-Summer"),
    ],
)
def test_what_guessers_try_first_is_refused(password: str) -> None:
    assert weakness(password, common=COMMON) == ("is one of the most common"), password


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "a long enough one",
        "pâté de campagne",
        "кошка под дождём",
        "x7!kQ2#mZ9@p",
    ],
)
def test_what_nobody_would_try_is_good(password: str) -> None:
    assert weakness(password, common=COMMON) is None


def test_length_counts_characters_and_bytes_of_the_normal_form() -> None:
    assert weakness("é" * 5 + "abcdef", common=COMMON) is not None
    assert weakness("e\u0301te\u0301 a\u0300 wag", common=COMMON) == "needs at least 12 characters"
    assert weakness("ab!" + "é" * 511, common=COMMON) == "has more than 1024 bytes"


@pytest.mark.parametrize("password", ["ann.the.great", "ANN.THE.GREAT", "taerg.eht.nna", "ann.the.great" * 2])
def test_the_users_own_name_is_none(password: str) -> None:
    assert weakness(password, common=COMMON, username="ann.the.great") == "is the name of its user"


@given(st.text(max_size=64))
def test_any_text_gets_an_answer_and_its_forms_get_the_same(password: str) -> None:
    found = weakness(password, common=COMMON)
    assert weakness(unicodedata.normalize("NFD", password), common=COMMON) == found
    if len(normalised(password)) < CHARACTERS_MIN:
        assert found is not None


@given(st.text(min_size=1, max_size=4), st.integers(min_value=12, max_value=BYTES_MAX))
def test_no_few_characters_make_a_good_one(unit: str, times: int) -> None:
    assert weakness(unit * times, common=COMMON) is not None


def test_the_list_is_bounded() -> None:
    assert 100 < len(COMMON) < 1000
    assert all(word == word.casefold() for word in COMMON)


@pytest.mark.parametrize("role", list(Role))
def test_nobody_gives_more_than_they_have(role: Role) -> None:
    check_grants(actor(Role.ADMIN), role)
    if role is Role.ADMIN:
        with pytest.raises(RoleRequired):
            check_grants(actor(Role.USER), role)
    else:
        check_grants(actor(Role.USER), role)


@pytest.mark.parametrize(
    ("role", "organization_id", "may"),
    [
        (Role.ADMIN, FOUNDING_ORGANIZATION, True),
        (Role.ADMIN, "another", False),
        (Role.USER, FOUNDING_ORGANIZATION, False),
    ],
)
def test_who_founds_organizations(role: Role, organization_id: str, may: bool) -> None:  # noqa: FBT001
    refusal = nullcontext() if may else pytest.raises(RoleRequired)
    with refusal:
        check_founds(actor(role, organization_id))


def test_only_admins_set_others_passwords() -> None:
    check_resets(actor(Role.ADMIN))
    with pytest.raises(RoleRequired):
        check_resets(actor(Role.USER))


def test_a_bodys_digest_depends_on_method_body_and_key() -> None:
    digests = {
        RequestDigest(key).of(method, body)
        for key in ("a" * 32, "b" * 32)
        for method in "mn"
        for body in (b"x", b"y")
    }
    assert len(digests) == 8
