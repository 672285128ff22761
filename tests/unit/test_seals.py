"""What is sealed for one tenant, purpose and name opens for these alone; and names tell nothing."""

import base64

from cryptography.fernet import Fernet
from hypothesis import assume, given
from hypothesis import strategies as st

from services.common.seals import KEYS_KEPT_MAX, Seals
from services.inference.core.secret_names import Names

KEY, OTHER_KEY = (base64.urlsafe_b64encode(bytes([byte]) * 32).decode() for byte in (1, 2))
SECRET = "s" * 32
tenants = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.binary(max_size=300), tenants, st.binary(max_size=40))
def test_what_was_sealed_opens(data: bytes, tenant: str, name: bytes) -> None:
    seals = Seals([KEY], purpose="cache")
    sealed = seals.seal(data, tenant=tenant, name=name)
    assert seals.open(sealed, tenant=tenant, name=name) == data
    assert seals.seal(data, tenant=tenant, name=name) != sealed  # A nonce of its own.


@given(st.binary(min_size=16, max_size=100), tenants, tenants)
def test_not_for_another_tenant(data: bytes, tenant: str, other: str) -> None:
    assume(tenant != other)
    seals = Seals([KEY], purpose="cache")
    sealed = seals.seal(data, tenant=tenant, name=b"a")
    assert data not in sealed
    assert seals.open(sealed, tenant=other, name=b"a") is None


@given(st.binary(max_size=60), st.data())
def test_not_if_a_bit_was_changed(data: bytes, draw: st.DataObject) -> None:
    seals = Seals([KEY], purpose="cache")
    sealed = bytearray(seals.seal(data, tenant="a", name=b"a"))
    place = draw.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[place // 8] ^= 1 << place % 8
    assert seals.open(bytes(sealed), tenant="a", name=b"a") is None


@given(st.binary(max_size=40))
def test_not_if_it_never_was_sealed(data: bytes) -> None:
    assert Seals([KEY], purpose="cache").open(data, tenant="a", name=b"a") is None


def test_not_under_another_name_or_for_another_purpose_or_cut() -> None:
    seals = Seals([KEY], purpose="cache")
    sealed = seals.seal(b"hello", tenant="a", name=b"a")
    assert seals.open(sealed, tenant="a", name=b"b") is None
    assert Seals([KEY], purpose="stream").open(sealed, tenant="a", name=b"a") is None
    for length in range(len(sealed)):
        assert seals.open(sealed[:length], tenant="a", name=b"a") is None


def test_keys_rotate() -> None:
    old, both, new = (Seals(keys, purpose="cache") for keys in ([KEY], [OTHER_KEY, KEY], [OTHER_KEY]))
    sealed = old.seal(b"hello", tenant="a", name=b"a")
    assert both.open(sealed, tenant="a", name=b"a") == b"hello"
    assert new.open(sealed, tenant="a", name=b"a") is None
    assert new.open(both.seal(b"hello", tenant="a", name=b"a"), tenant="a", name=b"a") == b"hello"


def test_more_tenants_than_keys_are_kept_for() -> None:
    seals = Seals([Fernet.generate_key().decode()], purpose="cache")
    sealed = [seals.seal(b"hello", tenant=str(number), name=b"a") for number in range(KEYS_KEPT_MAX + 10)]
    assert all(
        seals.open(value, tenant=str(number), name=b"a") == b"hello" for number, value in enumerate(sealed)
    )


@given(tenants, st.binary(max_size=50), tenants, st.binary(max_size=50))
def test_names_are_the_same_for_the_same_alone(
    tenant: str, text: bytes, other_tenant: str, other_text: bytes
) -> None:
    names = Names(SECRET, purpose="cache")
    same = (tenant, text) == (other_tenant, other_text)
    assert (names.name(tenant, text) == names.name(other_tenant, other_text)) is same
    assert len(names.name(tenant, text)) == 32


def test_names_need_the_secret_and_the_purpose() -> None:
    name = Names(SECRET, purpose="cache").name("a", b"b")
    assert Names(SECRET, purpose="cache").name("a", b"b") == name
    assert Names("t" * 32, purpose="cache").name("a", b"b") != name
    assert Names(SECRET, purpose="stream").name("a", b"b") != name
