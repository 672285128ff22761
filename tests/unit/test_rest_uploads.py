"""Files as clients send them."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidRequest
from services.inference.rest.openai_uploads import PART_BYTES, Upload

TYPE = "multipart/form-data; boundary=XX"


def body(content: bytes, *, purpose: bytes = b"batch", filename: bytes = b"in.jsonl") -> bytes:
    return (
        b'--XX\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + purpose + b"\r\n"
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="'
        + filename
        + b'"\r\nContent-Type: application/octet-stream\r\n\r\n'
        + content
        + b"\r\n--XX--\r\n"
    )


def upload(data: bytes, *cuts: int, bytes_max: int = 10_000_000, content_type: str = TYPE) -> Upload:
    made = Upload(content_type, bytes_max=bytes_max)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        made.feed(data[start:end])
    return made


@given(st.binary(max_size=300), st.lists(st.integers(0, 700), max_size=8))
def test_however_it_arrives_it_is_the_same(content: bytes, cuts: list[int]) -> None:
    filename, parts = upload(body(content), *cuts).whole()
    assert filename == "in.jsonl"
    assert b"".join(parts) == content


def test_a_large_file_is_kept_in_parts() -> None:
    content = bytes(range(256)) * 10_000
    made = upload(body(content), *range(0, len(content), 70_001))
    _, parts = made.whole()
    assert b"".join(parts) == content
    assert {len(part) for part in parts[:-1]} == {PART_BYTES}
    assert made.size_bytes == len(content)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (body(b"x")[:-6], "file"),
        (b"nonsense", "file"),
        (b"", "file"),
        (body(b"x", purpose=b"fine-tune"), "purpose"),
        (b"--XX--\r\n", "file"),
        (body(b"x" * 2000), "file"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        upload(data, bytes_max=1000).whole()
    assert [broken.field for broken in refusal.value.violations] == [field]


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data"])
def test_what_is_no_upload_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidRequest):
        upload(b"", content_type=content_type)


def test_of_other_fields_nothing_is_kept() -> None:
    field = b'--XX\r\nContent-Disposition: form-data; name="%d"\r\n\r\n' + b"v" * 250 + b"\r\n"
    made = Upload(TYPE, bytes_max=1000)
    tracemalloc.start()
    try:
        for number in range(2000):
            made.feed(field % number)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    made.feed(body(b"content"))
    assert made.whole() == ("in.jsonl", [b"content"])
