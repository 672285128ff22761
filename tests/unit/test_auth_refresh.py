"""Refresh tokens, held to a model: exactly one line of successors, and no way back into it."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.auth.core.identity import Role
from services.auth.core.refresh import (
    GRACE_S,
    LIFETIME_S,
    Family,
    RefreshDigest,
    RefreshToken,
    Verdict,
    ended,
    judged,
    rotated,
)

DIGEST = RefreshDigest("k" * 32)


def family(token: RefreshToken, now_s: float = 0.0) -> Family:
    return Family(
        session_id="s",
        handle=DIGEST.of(token.handle),
        current=DIGEST.of(token.secret),
        user_id="user:ann",
        client_id="login",
        role_max=Role.USER,
        scopes=frozenset({"auth"}),
        rotated_at_s=now_s,
        expires_at_s=now_s + LIFETIME_S,
    )


class Lineage(RuleBasedStateMachine):
    """The model is a list of all tokens that were ever given out, and two numbers: who is last, and since when."""

    @initialize()
    def begin(self) -> None:
        first = RefreshToken(b"h" * 16, b"0" * 32)
        self.now_s, self.tokens, self.since_s, self.alive = 1000.0, [first], 1000.0, True
        self.family = family(first, self.now_s)

    @rule(seconds=st.floats(0, 2 * GRACE_S))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(back=st.integers(0, 4))
    def present(self, back: int) -> None:
        """Present a token, the newest or one before it, as a replica would."""
        token = self.tokens[max(0, len(self.tokens) - 1 - back)]
        place = len(self.tokens) - 1 - self.tokens.index(token)
        verdict = judged(self.family, DIGEST.of(token.secret), self.now_s)
        if not self.alive or self.now_s >= 1000.0 + LIFETIME_S:
            assert verdict is Verdict.OVER
        elif place == 0:
            assert verdict is Verdict.ROTATE
            salt = str(len(self.tokens)).encode()
            successor = DIGEST.successor(token, salt)
            self.family = rotated(self.family, DIGEST.of(successor.secret), salt, self.now_s)
            self.tokens.append(successor)
            self.since_s = self.now_s
        elif place == 1 and self.now_s < self.since_s + GRACE_S:
            assert verdict is Verdict.REPEAT
            assert DIGEST.successor(token, self.family.salt) == self.tokens[-1], "the line forks"
        else:
            assert verdict is Verdict.REUSED
            self.family, self.alive = ended(self.family), False

    @rule(secret=st.binary(min_size=32, max_size=32))
    def guess(self, secret: bytes) -> None:
        """Somebody knows the handle, and no secret: the family ends, and they have nothing."""
        if secret in {token.secret for token in self.tokens}:
            return
        verdict = judged(self.family, DIGEST.of(secret), self.now_s)
        assert verdict in {Verdict.REUSED, Verdict.OVER}

    @invariant()
    def all_are_different(self) -> None:
        assert len(set(map(str, self.tokens))) == len(self.tokens)
        assert self.family.generation == len(self.tokens)


TestLineage = Lineage.TestCase


def test_the_grace_is_what_a4_allows() -> None:
    assert 0 < GRACE_S <= 30


def test_at_the_end_of_its_time_a_login_is_over_however_busy_it_was() -> None:
    token = RefreshToken(b"h" * 16, b"0" * 32)
    kept = family(token)
    assert judged(kept, kept.current, LIFETIME_S - 0.001) is Verdict.ROTATE
    assert judged(kept, kept.current, LIFETIME_S) is Verdict.OVER


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: "omr_" + raw.hex()))
def test_what_is_no_token_is_none(text: str) -> None:
    read = RefreshToken.read(text)
    assert read is None or str(read) == text


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_a_token_is_read_as_it_was_written(handle: bytes, secret: bytes) -> None:
    token = RefreshToken(handle, secret)
    assert RefreshToken.read(str(token)) == token
    assert secret.hex() not in repr(token)


def test_another_key_keeps_and_derives_other_things() -> None:
    token, other = RefreshToken(b"h" * 16, b"0" * 32), RefreshDigest("o" * 32)
    assert other.of(token.secret) != DIGEST.of(token.secret)
    assert other.successor(token, b"salt") != DIGEST.successor(token, b"salt")
    assert DIGEST.successor(token, b"salt") != DIGEST.successor(token, b"pepper")
