"""Waiting devices, tickets and cookies: each step, whatever comes from outside."""

from dataclasses import replace

import pytest
from authlib.oauth2.rfc8628.endpoint import create_string_user_code
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from services.auth.core.browser import Site
from services.auth.core.device import (
    INTERVAL_S,
    LIFETIME_S,
    SLOWER_BY_S,
    Device,
    Reply,
    State,
    decided,
    polled,
    user_code,
)
from services.auth.core.tickets import LENGTH_MAX, Tickets
from services.auth.core.tickets import LIFETIME_S as TICKET_S

TICKETS = Tickets("k" * 32)


class Waiting(RuleBasedStateMachine):
    """The model: what the user has said, how long polls must be apart, and that there is one grant at most."""

    @initialize()
    def begin(self) -> None:
        self.now_s, self.said, self.granted = 0.0, None, 0
        self.interval_s, self.last_s = INTERVAL_S, -1e9
        self.device = Device(
            digest=b"d" * 32,
            user_code_digest=b"u" * 32,
            client_id="cli",
            scopes=frozenset({"agent"}),
            expires_at_s=LIFETIME_S,
        )

    said: bool | None

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 10.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(approved=st.booleans())
    def answer(self, *, approved: bool) -> None:
        after = decided(self.device, "user:ann", self.now_s, approved=approved)
        if self.said is not None or self.now_s >= LIFETIME_S:
            assert after is None
        else:
            assert after is not None
            self.device, self.said = after, approved

    @rule()
    def poll(self) -> None:
        reply, after = polled(self.device, "cli", self.now_s)
        if self.granted:
            assert reply is Reply.INVALID
        elif self.now_s >= LIFETIME_S:
            assert reply is Reply.EXPIRED
        elif self.said is False:
            assert reply is Reply.DENIED
        elif self.said:
            assert reply is Reply.GRANTED
            self.granted += 1
        elif self.now_s - self.last_s < self.interval_s - 0.5:
            assert reply is Reply.SLOW_DOWN
            self.interval_s += SLOWER_BY_S
        else:
            assert reply is Reply.PENDING
        if reply not in {Reply.INVALID, Reply.EXPIRED}:
            self.last_s = self.now_s
        self.device = after

    @rule()
    def poll_as_another(self) -> None:
        assert polled(self.device, "thief", self.now_s) == (Reply.INVALID, self.device)


TestWaiting = Waiting.TestCase


@given(st.text(max_size=100))
def test_a_typed_code_is_a_code_or_none(typed: str) -> None:
    code = user_code(typed)
    assert code is None or user_code(code) == code


def test_codes_are_read_as_people_type_them() -> None:
    made = create_string_user_code()
    bare = made.replace("-", "")
    assert user_code(made) == user_code(bare.lower()) == user_code(f" {bare[:3]} {bare[3:]} ") == bare


def test_a_redeemed_device_has_its_user() -> None:
    device = Device(
        digest=b"", user_code_digest=b"", client_id="c", scopes=frozenset(), expires_at_s=9, user_id="user:a"
    )
    assert polled(replace(device, state=State.REDEEMED), "c", 0)[0] is Reply.INVALID


@given(
    st.text(max_size=200) | st.binary(max_size=80).map(lambda raw: raw.hex() + "." + raw.hex()),
    st.text(max_size=10),
)
def test_what_was_not_signed_is_no_ticket(ticket: str, nonce: str) -> None:
    assert TICKETS.read("sign-in", ticket, nonce=nonce, now_s=0) is None


def test_a_ticket_is_good_for_one_purpose_in_one_browser_for_a_while() -> None:
    ticket = TICKETS.write("sign-in", {"a": ["é", None]}, nonce="n", now_s=100.5)
    assert TICKETS.read("sign-in", ticket, nonce="n", now_s=101) == {"a": ["é", None]}
    assert TICKETS.read("consent", ticket, nonce="n", now_s=101) is None
    assert TICKETS.read("sign-in", ticket, nonce="m", now_s=101) is None
    assert TICKETS.read("sign-in", ticket, nonce="n", now_s=100 + TICKET_S) is None
    assert Tickets("o" * 32).read("sign-in", ticket, nonce="n", now_s=101) is None
    assert TICKETS.read("sign-in", ticket + "x" * LENGTH_MAX, nonce="n", now_s=101) is None


def test_over_https_a_cookie_is_the_hosts_alone() -> None:
    site = Site("https://mesh.example")
    cookie = site.cookie("r", "v", path="/oauth", same_site="Strict", lifetime_s=60)
    assert cookie == "__Host-r=v; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Strict"
    assert site.may_keep_cookies


@pytest.mark.parametrize(
    ("origin", "keeps"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://localhost:8080", True),
        ("http://[::1]:8080", True),
        ("http://mesh.example", False),
        ("http://127.0.0.1.mesh.example", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_in_clear_only_this_machine_keeps_cookies(origin: str, *, keeps: bool) -> None:
    assert Site(origin).may_keep_cookies is keeps


@given(
    st.text(max_size=20),
    st.lists(st.text(max_size=20), max_size=2),
    st.lists(st.text(max_size=12), max_size=2),
)
def test_only_its_own_page_is_its_own(origin: str, origins: list[str], fetch_sites: list[str]) -> None:
    if Site(origin).is_own(origins, fetch_sites):
        assert origins == [origin] != [""]
        assert fetch_sites in ([], ["same-origin"])
