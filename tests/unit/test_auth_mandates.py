"""What a mandate may be, and whom it lets its holder act for."""

from dataclasses import replace

import pytest

from services.auth.core.exchange import Subject
from services.auth.core.identity import SCOPES, Identity, Role
from services.auth.core.mandates import Mandate, MandateDigest, Standing, granted, redeemed
from services.auth.errors import ExchangeRefused, ScopeDenied

DIGEST = MandateDigest("k" * 32)
TEXT = "omm_" + "A" * 43
ANN = Identity(user_id="user:ann", role=Role.USER, organization_id="o", project_id="p", client_id="login")
SUBJECT = Subject(identity=ANN, actor=None, session_id="s", api_key_id=None, expires_at_s=0)
BOTH = frozenset({"inference", "sandbox"})


def mandate(subject: Subject = SUBJECT, scopes: frozenset[str] = BOTH) -> Mandate:
    return granted(subject, "agent", scopes, b"d" * 32)


def standing(identity: Identity | None = ANN, *, source_ended: bool = False) -> Standing:
    return Standing(identity=identity, source_ended=source_ended)


@pytest.mark.parametrize("text", ["", "x", TEXT + "A", TEXT[:-1], "omm_" + "é" * 43, TEXT + "\n"])
def test_what_cannot_be_a_mandate_is_none(text: str) -> None:
    assert DIGEST.of(text) is None


def test_the_digest_is_keyed_and_the_text_is_nowhere_in_it() -> None:
    digest = DIGEST.of(TEXT)
    assert digest is not None
    assert digest != MandateDigest("x" * 32).of(TEXT)
    assert TEXT not in repr(replace(mandate(), digest=digest))


def test_a_mandate_gives_what_its_token_gave() -> None:
    found = redeemed(mandate(), standing(), "agent")
    assert found == replace(ANN, scopes=BOTH)


@pytest.mark.parametrize(
    "scopes", [frozenset[str](), frozenset({"auth"}), frozenset({"agent"}), BOTH | {"auth"}]
)
def test_a_service_gets_mandates_for_what_it_calls_and_nothing_else(scopes: frozenset[str]) -> None:
    with pytest.raises(ScopeDenied):
        mandate(scopes=scopes)


def test_a_service_that_calls_none_gets_none() -> None:
    with pytest.raises(ScopeDenied):
        granted(SUBJECT, "sandbox", frozenset({"inference"}), b"d" * 32)


def test_a_mandate_is_never_more_than_its_token() -> None:
    with pytest.raises(ScopeDenied):
        mandate(replace(SUBJECT, identity=replace(ANN, scopes=frozenset({"agent", "inference"}))))


def test_a_chain_keeps_who_is_in_it() -> None:
    assert mandate(replace(SUBJECT, actor="service:agent"))
    with pytest.raises(ExchangeRefused):
        mandate(replace(SUBJECT, actor="service:broker"))


def test_the_role_is_the_lesser_of_the_tokens_and_the_users_now() -> None:
    admin = replace(SUBJECT, identity=replace(ANN, role=Role.ADMIN))
    for asked, role, told in (
        (admin, Role.ADMIN, Role.ADMIN),
        (admin, Role.USER, Role.USER),
        (SUBJECT, Role.ADMIN, Role.USER),
    ):
        found = redeemed(mandate(asked), standing(replace(ANN, role=role)), "agent")
        assert found is not None
        assert found.role is told


def test_scopes_that_the_user_has_lost_are_lost() -> None:
    found = redeemed(mandate(), standing(replace(ANN, scopes=SCOPES - {"sandbox"})), "agent")
    assert found is not None
    assert found.scopes == {"inference"}
    assert redeemed(mandate(), standing(replace(ANN, scopes=frozenset({"auth"}))), "agent") is None


def test_nobody_acts_for_whom_there_is_no_more_or_with_what_is_anothers() -> None:
    assert redeemed(mandate(), standing(None), "agent") is None
    assert redeemed(mandate(), standing(source_ended=True), "agent") is None
    assert redeemed(mandate(), standing(), "sandbox") is None
