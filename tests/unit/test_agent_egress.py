"""What may be fetched: hosts by name, addresses by what they are."""

import pytest

from services.agent.core.egress import Egress

NAMED = Egress.of(
    ["Example.com", "*.example.org", "api.test:8443", "192.0.2.1", "[2001:db8::1]:8080", "*.x.y:81"]
)


@pytest.mark.parametrize(
    ("scheme", "host", "port"),
    [
        ("https", "example.com", 443),
        ("http", "example.com", 80),
        ("https", "a.example.org", 443),
        ("https", "b.a.example.org", 443),
        ("http", "api.test", 8443),
        ("https", "api.test", 8443),
        ("http", "192.0.2.1", 80),
        ("http", "2001:db8::1", 8080),
        ("http", "a.x.y", 81),
    ],
)
def test_what_is_named_is_permitted(scheme: str, host: str, port: int) -> None:
    assert NAMED.permits(scheme, host, port)


@pytest.mark.parametrize(
    ("scheme", "host", "port"),
    [
        ("http", "example.com", 443),
        ("https", "example.com", 8443),
        ("https", "example.org", 443),
        ("https", "evilexample.org", 443),
        ("https", "example.com.", 443),
        ("https", "www.example.com", 443),
        ("https", "example.com.evil.test", 443),
        ("https", "api.test", 443),
        ("ftp", "example.com", 21),
        ("file", "example.com", 443),
        ("http", "192.0.2.10", 80),
        ("http", "a.x.y", 80),
        ("http", "", 80),
    ],
)
def test_all_else_is_not(scheme: str, host: str, port: int) -> None:
    assert not NAMED.permits(scheme, host, port)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "*.",
        "a..b",
        "http://a",
        "a/b",
        "a:0",
        "a:65536",
        "a:x",
        "a:",
        "[::1",
        "[a]:1",
        "é.test",
        "a b",
        "*.*.a",
        "a*",
        "-a",
    ],
)
def test_what_is_no_host_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - Whichever the libraries raise.
        Egress.of([host])


PUBLIC = [
    "93.184.216.34",
    "1.1.1.1",
    "2606:2800:220:1::1",
    "2001:4860:4860::8888",
    "172.32.0.1",
    "100.128.0.1",
]
OTHERS = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.216.34",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::5db8:d822",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001::1",
    "2001:db8::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "100::1",
    "5f00::1",
    "localhost",
    "",
    "1",
    "0x7f.1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address: str) -> None:
    assert Egress.of([]).reaches([address])


@pytest.mark.parametrize("address", OTHERS)
def test_others_are_not_and_spoil_those_beside_them(address: str) -> None:
    assert not Egress.of([]).reaches([address])
    assert not Egress.of([]).reaches([PUBLIC[0], address])


def test_private_networks_are_reached_once_they_are_named() -> None:
    egress = Egress.of([], ["127.0.0.0/8", "fd00::/8"])
    assert egress.reaches(["127.0.0.1"])
    assert egress.reaches(["fd00::1", "1.1.1.1"])
    for address in ("10.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert not egress.reaches([address])
    assert not egress.reaches([])
    with pytest.raises(ValueError, match="host bits"):
        Egress.of([], ["127.0.0.1/8"])
