"""An answer that is kept is told again as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.cached import Cached, Recording, decoded, encoded, replay
from services.inference.completion import Started
from services.inference.ports import EndReason, Outcome, Piece

STARTED = Started(model="tiny:latest", model_digest="sha256:1", instance="gpu")
OUTCOME = Outcome(reason=EndReason.STOP, prompt_token_count=3, output_s=0.1, context=(1, 2, 3))
pieces = st.lists(
    st.builds(Piece, text=st.text(max_size=5), thinking=st.text(max_size=5), token_count=st.integers(0, 3)),
    max_size=8,
)


def recorded(told: list[Piece]) -> Cached:
    recording = Recording(bytes_max=1 << 20)
    for piece in told:
        recording.write(piece)
    return recording.cached(STARTED, OUTCOME)


@given(pieces)
def test_an_answer_is_decoded_as_it_was_told(told: list[Piece]) -> None:
    cached = decoded(encoded(recorded(told)))
    assert cached == recorded(told)
    assert list(cached.pieces()) == told


@given(st.binary(max_size=50))
def test_nonsense_is_no_answer(data: bytes) -> None:
    with pytest.raises(ValueError, match="no cached answer"):
        decoded(data)


@given(pieces, st.sampled_from([0.0, 10.0]), st.booleans())
def test_an_answer_is_told_again_whole(told: list[Piece], tokens_per_s: float, by_token: bool) -> None:  # noqa: FBT001
    again = list(replay(recorded(told), by_token=by_token, tokens_per_s=tokens_per_s))
    assert "".join(piece.text for _, piece in again) == "".join(piece.text for piece in told)
    assert "".join(piece.thinking for _, piece in again) == "".join(piece.thinking for piece in told)
    assert sum(piece.token_count for _, piece in again) == sum(piece.token_count for piece in told)
    delays_s = [delay_s for delay_s, _ in again]
    assert delays_s == sorted(delays_s)
    if tokens_per_s:
        assert delays_s[-1:] == [sum(piece.token_count for piece in told) / tokens_per_s][: len(told)]
    else:
        assert set(delays_s) <= {0.0}
        assert by_token or len(again) == 1
