"""Results of a program, from bytes that nobody vouches for."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.core.results import FORM_COUNT_MAX, Decoder, Result, encode

MIMES = st.sampled_from(("text/plain", "text/html", "image/png", "application/vnd.x+json"))
RESULTS = st.lists(
    st.dictionaries(MIMES, st.binary(max_size=64), min_size=1, max_size=FORM_COUNT_MAX), max_size=6
)
CUTS = st.lists(st.integers(0, 2000), max_size=8)


def told(data: bytes, cuts: list[int], decoder: Decoder) -> list[Result]:
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    found = [result for start, end in pairwise(places) for result in decoder.feed(data[start:end])]
    decoder.end()
    return found


@given(RESULTS, CUTS)
def test_what_is_told_is_read_however_it_is_cut(results: list[Result], cuts: list[int]) -> None:
    decoder = Decoder(bytes_max=1 << 20, count_max=100)
    assert told(b"".join(map(encode, results)), cuts, decoder) == results
    assert not decoder.truncated


@given(st.binary(max_size=400), CUTS)
def test_anything_else_is_refused_and_harms_nobody(data: bytes, cuts: list[int]) -> None:
    decoder = Decoder(bytes_max=200, count_max=3)
    found = told(data, cuts, decoder)
    assert len(found) <= 3
    assert sum(len(form) for result in found for form in result.values()) <= 200
    assert decoder.truncated or b"".join(map(encode, found)) == data


@given(RESULTS, st.integers(0, 300), st.integers(0, 5), CUTS)
def test_what_is_too_much_is_left_out_and_said(
    results: list[Result], bytes_max: int, count_max: int, cuts: list[int]
) -> None:
    decoder = Decoder(bytes_max=bytes_max, count_max=count_max)
    found = told(b"".join(map(encode, results)), cuts, decoder)
    assert decoder.truncated == (found != results)
    assert sum(len(encode(result)) - 4 for result in found) <= bytes_max
    assert len(found) <= count_max


def test_a_frame_that_is_too_large_is_not_kept() -> None:
    decoder = Decoder(bytes_max=100, count_max=10)
    assert decoder.feed(b"\xff\xff\xff\xff" + b"x" * 100_000) == []
    assert decoder.truncated
    small = {"text/plain": b"1"}
    decoder = Decoder(bytes_max=100, count_max=10)
    large = encode({"text/plain": b"x" * 200})
    assert decoder.feed(large[:50]) == []
    assert decoder.feed(large[50:] + encode(small)) == [small]
