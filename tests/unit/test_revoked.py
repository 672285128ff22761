"""What a deny-list denies, over any sequence of what it is told."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.common.grpc.revocations import from_message, to_message
from services.common.revoked import DenyList, Kind, Revocation
from services.common.tokens import Caller, Role

NOW_S = 1_800_000_000.0
NAMES = ("a", "b", "c")


def caller(**more: Any) -> Caller:
    usual: dict[str, Any] = {
        "user_id": "u",
        "role": Role.USER,
        "organization_id": "o",
        "project_id": "p",
        "client_id": "cl",
        "scopes": frozenset(),
        "token_id": "t",
        "expires_at_s": int(NOW_S) + 600,
        "token": "",
        "issued_at_s": int(NOW_S),
        "key_id": "k",
    }
    return Caller(**(usual | more))


def revocation(kind: Kind, name: str, *, until_s: float | None = None, forget_s: float = 600) -> Revocation:
    return Revocation(kind=kind, id=name, issued_until_s=until_s, forget_at_s=NOW_S + forget_s)


BY = {
    Kind.TOKEN: "token_id",
    Kind.SESSION: "session_id",
    Kind.API_KEY: "api_key_id",
    Kind.USER: "user_id",
    Kind.CLIENT: "client_id",
    Kind.SIGNING_KEY: "key_id",
}
names = st.sampled_from(NAMES)
entries = st.builds(
    revocation,
    st.sampled_from(Kind),
    names,
    until_s=st.none() | st.floats(NOW_S - 5, NOW_S + 5),
    forget_s=st.floats(1, 600),
)
tokens = st.builds(
    caller,
    **dict.fromkeys(BY.values(), names),
    actor=st.none() | names,
    issued_at_s=st.integers(int(NOW_S) - 6, int(NOW_S) + 6),
)


def denied_by(entry: Revocation, token: Caller) -> bool:
    """The promise, one entry at a time."""
    named = {getattr(token, BY[entry.kind])} | ({token.actor} if entry.kind is Kind.USER else set())
    return entry.id in named and (entry.issued_until_s is None or token.issued_at_s <= entry.issued_until_s)


@given(st.lists(entries, max_size=12), tokens)
def test_a_token_is_denied_when_any_entry_means_it(told: list[Revocation], token: Caller) -> None:
    denied = DenyList()
    for entry in told:
        denied.add([entry], now_s=NOW_S)
    assert denied.denies(token) == any(denied_by(entry, token) for entry in told)


@given(st.lists(entries, max_size=12))
def test_order_and_repetition_change_nothing(told: list[Revocation]) -> None:
    one, other = DenyList(), DenyList()
    one.add(told, now_s=NOW_S)
    other.add([*reversed(told), *told], now_s=NOW_S)
    assert set(one) == set(other)
    assert other.add(list(one), now_s=NOW_S) == []


@given(st.lists(entries, max_size=12), tokens, st.floats(0, 700))
def test_nothing_is_forgotten_early(told: list[Revocation], token: Caller, later_s: float) -> None:
    denied = DenyList()
    denied.add(told, now_s=NOW_S)
    denied.forget(NOW_S + later_s)
    kept = [entry for entry in told if entry.forget_at_s > NOW_S + later_s]
    assert all(denied.denies(token) for entry in kept if denied_by(entry, token))
    denied.forget(NOW_S + 601)
    assert len(denied) == 0


def test_a_full_list_loses_nothing_and_lets_nobody_in_who_was_there_before() -> None:
    denied = DenyList(entries_max=3)
    denied.add([revocation(Kind.TOKEN, name) for name in NAMES], now_s=NOW_S)
    assert not denied.denies(caller(token_id="d"))
    assert denied.add([revocation(Kind.TOKEN, "d")], now_s=NOW_S) != []
    assert len(denied) == 3
    assert denied.denies(caller(token_id="a", issued_at_s=int(NOW_S) + 1))
    assert denied.denies(caller(token_id="d"))
    assert denied.denies(caller(token_id="e"))  # The price: everybody needs a new one.
    assert not denied.denies(caller(token_id="e", issued_at_s=int(NOW_S) + 1))
    assert denied.issuable_from_s("u", "cl") == NOW_S


def test_a_full_list_makes_room_by_what_may_be_forgotten() -> None:
    denied = DenyList(entries_max=3)
    denied.add([revocation(Kind.TOKEN, name, forget_s=10) for name in NAMES], now_s=NOW_S)
    denied.add([revocation(Kind.TOKEN, "d")], now_s=NOW_S + 11)
    assert [entry.id for entry in denied] == ["d"]
    assert not denied.denies(caller(token_id="e"))


def test_what_may_be_forgotten_already_is_not_learned() -> None:
    denied = DenyList()
    assert denied.add([revocation(Kind.TOKEN, "a", forget_s=0)], now_s=NOW_S) == []
    assert len(denied) == 0


@given(entries)
def test_an_entry_crosses_the_wire_and_denies_no_less(entry: Revocation) -> None:
    crossed = from_message(to_message(entry))
    assert crossed is not None
    assert (crossed.kind, crossed.id) == (entry.kind, entry.id)
    assert abs(crossed.forget_at_s - entry.forget_at_s) < 0.01
    for issued_s in range(int(NOW_S) - 6, int(NOW_S) + 6):
        token = caller(**{BY[entry.kind]: entry.id}, issued_at_s=issued_s)
        assert denied_by(crossed, token) or not denied_by(entry, token)


def test_a_kind_of_a_later_version_is_passed_over() -> None:
    message = to_message(revocation(Kind.TOKEN, "a"))
    message.kind = 99  # type: ignore[assignment]
    assert from_message(message) is None
