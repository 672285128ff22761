"""A key's life, over any sequence of rotations and any moment."""

from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from services.auth.adapters.es256 import Es256Locksmith
from services.auth.core.keys import KEPT_S, Phase, Term, first_term, phase, published, signing

rotations = st.lists(st.floats(1, 1e9), max_size=6, unique=True).map(sorted)


def terms_of(times_s: list[float]) -> list[Term]:
    """The first key and its successors, each replacing the one before at the given time."""
    starts = [0.0, *times_s]
    ends: list[float | None] = [*times_s, None]
    return [
        Term(key_id=f"k{n}", active_from_s=start, retired_from_s=end)
        for n, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


@given(rotations, st.floats(0, 2e9))
def test_exactly_one_key_signs_and_it_is_published(times_s: list[float], now_s: float) -> None:
    terms = terms_of(times_s)
    signer = signing(terms, now_s)
    assert signer is not None
    assert phase(signer, now_s) is Phase.ACTIVE
    assert signer in published(terms, now_s)


@given(rotations, st.floats(0, 1e9), st.floats(0, KEPT_S, exclude_max=True))
def test_what_a_key_signed_can_be_verified_for_as_long_as_it_is_valid(
    times_s: list[float], signed_at_s: float, later_s: float
) -> None:
    terms = terms_of(times_s)
    signer = signing(terms, signed_at_s)
    assert signer in published(terms, signed_at_s + later_s)


def test_the_phases_in_their_order() -> None:
    term = Term(key_id="k", active_from_s=100, retired_from_s=200)
    assert [phase(term, at_s) for at_s in (99.9, 100, 199.9, 200, 200 + KEPT_S - 0.1, 200 + KEPT_S)] == [
        *(Phase.PENDING, Phase.ACTIVE, Phase.ACTIVE),
        *(Phase.RETIRED, Phase.RETIRED, Phase.GONE),
    ]


def test_a_pending_key_is_published_and_does_not_sign() -> None:
    pending = Term(key_id="new", active_from_s=100)
    assert signing([pending], 50) is None
    assert published([pending], 50) == [pending]


def test_of_two_active_keys_the_newer_signs() -> None:
    old, new = Term(key_id="b", active_from_s=10), Term(key_id="a", active_from_s=20)
    assert signing([new, old], 30) == signing([old, new], 30) == new


def test_the_first_key_signs_whatever_the_clock_says() -> None:
    assert signing([first_term("k")], 0.0) is not None


def test_a_sealed_key_opens_only_under_its_own_name_and_with_its_own_seal() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    key_id, sealed = Es256Locksmith((old,)).make()
    rotated = Es256Locksmith((new, old)).open(key_id, sealed)
    assert rotated is not None
    assert rotated.key_id == key_id
    assert Es256Locksmith((new,)).open(key_id, sealed) is None
    assert Es256Locksmith((old,)).open("another", sealed) is None
    assert Es256Locksmith((old,)).open(key_id, sealed[:-8]) is None
    assert b"PRIVATE" not in sealed
