"""The text of pages, in time in proportion to them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.core.html_text import PAGE_CHARS_MAX, text_of

PAGE = """<!DOCTYPE html>
<html><head><title>A &amp; B</title><style>p { color: red }</style>
<script>if (1 < 2) document.write("<p>no</p>")</script></head>
<body><!-- <p>no</p> --><h1>Hello <b>big</b>   world</h1><p>next<br>line</p>
<ul><li>1<li>2</ul><SVG><text>no</text></SVG> 3 < 4 & 5 <a href="x">li
nk</a> &#233;&unknown;</body></html>"""


def test_a_page_is_its_text() -> None:
    assert text_of(PAGE) == "A & B\n\nHello big world\n\nnext\nline\n\n1\n2\n\n3 < 4 & 5 li\nnk é&unknown;"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("a <b", "a <b"),
        ("<script>all the rest", ""),
        ("<!-- all the rest", ""),
        ("</script>a", "a"),
        ("<style>x</STYLE >a", "a"),
        ("a<script/>b</script>c", "a\n\nc"),
        ("&#" + "9" * 5000 + ";", "&#" + "9" * 5000 + ";"),
        ("İ<script>x</script>a", "İ\n\na"),
        ("", ""),
    ],
)
def test_broken_pages_are_read_as_far_as_they_go(page: str, text: str) -> None:
    assert text_of(page) == text


@given(st.text(alphabet="<>/!-?ab &;#9script \n\"'=", max_size=200))
def test_whatever_the_page_its_text_is_no_longer(page: str) -> None:
    assert len(text_of(page)) <= len(page)


PIECES = [
    "<a ",
    "<",
    "<!",
    "<!--",
    "<![CDATA[",
    "</",
    "<?",
    '<a b="',
    "<script>",
    "<script>x</script>",
    "&",
    "&#",
    " ",
    "\n",
    " \n",
    "<p>",
]


@pytest.mark.parametrize("piece", PIECES)
def test_no_page_takes_longer_than_its_length(piece: str) -> None:
    """Twice as much takes twice the time; squared, it would be hours."""
    began_s = time.process_time()
    text_of(piece * (2 * PAGE_CHARS_MAX // len(piece)))
    assert time.process_time() - began_s < 30
