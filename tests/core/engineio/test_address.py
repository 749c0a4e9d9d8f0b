"""Whom a request counts for: peers, proxies that are trusted, and what others write."""

import ipaddress

import pytest
from tokenwire.engineio.address import Addresses, parse_network
from tokenwire.types import Peer, Request

PROXIES = ("127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48", "::ffff:172.16.0.0/108")
LOCAL = ipaddress.ip_address("127.0.0.1").packed


def found(peer: str | None, *fields: tuple[str, str], trusted: tuple[str, ...] = PROXIES) -> object:
    """Return the address of a request as text; None: it is not counted."""
    request = Request("GET", "/", headers=fields, peer=Peer(peer))
    key = Addresses(trusted).of(request)
    if key is None:
        return None
    return str(ipaddress.ip_address(key if len(key) == 4 else key + bytes(8)))


def forwarded_for(*lines: str) -> object:
    return found("127.0.0.1", *(("x-forwarded-for", line) for line in lines))


def forwarded(*lines: str) -> object:
    return found("127.0.0.1", *(("forwarded", line) for line in lines))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::ff", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("127.0.0.1", None),
        ("127.1.2.3", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        (None, None),
        ("", None),
        ("@abstract", None),
    ],
)
def test_the_peer(peer: str | None, address: str | None) -> None:
    assert found(peer) == address
    assert found(peer, trusted=()) == address


def test_a_peer_that_is_not_trusted_says_what_it_likes() -> None:
    fields = (("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=127.0.0.1"))
    assert found("192.0.2.1", *fields) == "192.0.2.1"
    assert found("127.0.0.1", ("x-forwarded-for", "192.0.2.9"), trusted=()) is None
    assert found("2001:db8::1", ("x-forwarded-for", "192.0.2.9")) == "2001:db8::"


@pytest.mark.parametrize("peer", ["127.0.0.1", "::ffff:10.9.9.9", "2001:db8:ffff::1", "172.31.0.1"])
def test_a_trusted_proxy_is_believed(peer: str) -> None:
    assert found(peer, ("x-forwarded-for", "192.0.2.9")) == "192.0.2.9"
    assert found(peer, ("forwarded", "for=192.0.2.9")) == "192.0.2.9"


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (("192.0.2.9",), "192.0.2.9"),
        (("198.51.100.1, 192.0.2.9",), "192.0.2.9"),  # the client wrote the first one
        (("127.0.0.1, 192.0.2.9",), "192.0.2.9"),
        (("junk, 192.0.2.9",), "192.0.2.9"),
        ((",,,192.0.2.9",), "192.0.2.9"),
        (("192.0.2.9, 10.0.0.1, 10.0.0.2",), "192.0.2.9"),
        (("198.51.100.1", "192.0.2.9\t,10.0.0.1"), "192.0.2.9"),
        (("192.0.2.9:4711",), "192.0.2.9"),
        (("2001:db8:1:2::9",), "2001:db8:1:2::"),
        (("[2001:db8:1:2::9]",), "2001:db8:1:2::"),
        (("[2001:db8:1:2::9]:4711",), "2001:db8:1:2::"),
        (("::ffff:192.0.2.9",), "192.0.2.9"),
        (("10.0.0.3, 10.0.0.2",), "10.0.0.3"),  # all are trusted: the farthest
        (("127.0.0.1",), None),
        (("::1",), None),
    ],
)
def test_the_rightmost_that_is_no_proxy(lines: tuple[str, ...], address: str | None) -> None:
    assert forwarded_for(*lines) == address


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (("for=192.0.2.9",), "192.0.2.9"),
        (("For=192.0.2.9; proto=http ;by=203.0.113.43",), "192.0.2.9"),
        (('for="192.0.2.9:4711"',), "192.0.2.9"),
        (('proto=https;for="[2001:db8:1:2::9]:4711"',), "2001:db8:1:2::"),
        (("for=198.51.100.1, for=192.0.2.9",), "192.0.2.9"),
        (("for=198.51.100.1", "for=192.0.2.9, for=10.0.0.1"), "192.0.2.9"),
        (('for="x, for=192.0.2.9',), "192.0.2.9"),  # the client left a quote open
        (("for=_hidden, for=192.0.2.9",), "192.0.2.9"),
    ],
)
def test_forwarded(lines: tuple[str, ...], address: str) -> None:
    assert forwarded(*lines) == address


@pytest.mark.parametrize(
    "last",
    [
        *("", "junk", "unknown", "192.0.2", "192.0.2.999", "192.0.2.9:port", "192.0.2.9:123456"),
        *("[192.0.2.9]x", "2001:db8::g", "[2001:db8::9", "fe80::1%eth0", "1٣.0.0.1", "3232235777"),
    ],
)
def test_what_cannot_be_read_counts_for_the_proxy(last: str) -> None:
    assert forwarded_for(last) == "127.0.0.1"
    assert forwarded_for(f"192.0.2.9, {last}, 10.0.0.1") == "127.0.0.1"
    assert found("10.0.0.7", ("x-forwarded-for", last)) == "10.0.0.7"
    assert forwarded(f"for={last}") == "127.0.0.1"


@pytest.mark.parametrize(
    "element",
    [
        *("", "for", "for=", "by=192.0.2.9", "192.0.2.9", "for=192.0.2.9;for=192.0.2.8"),
        *(
            'for="192.0.2.9',
            'for=192.0.2.9"',
            'for="192.0.2.\\9"',
            'for=192.0.2.9;a="',
            "for=192.0.2.9;",
        ),
        *('host="x,for=192.0.2.9;a="', "for=_hidden", "for=unknown", "for = 192.0.2.9"),
    ],
)
def test_an_element_of_forwarded_that_says_nothing(element: str) -> None:
    assert forwarded(f"for=198.51.100.1, {element}") == "127.0.0.1"


def test_x_forwarded_for_goes_before_forwarded() -> None:
    fields = (("forwarded", "for=192.0.2.9"), ("x-forwarded-for", "192.0.2.8"))
    assert found("127.0.0.1", *fields) == "192.0.2.8"


def test_a_long_field_costs_little() -> None:
    assert forwarded_for("10.0.0.1," * 1_700 + "10.0.0.1") == "10.0.0.1"
    assert forwarded(";" * 16_000) == "127.0.0.1"


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "*", "1.2.3", "", "10.0.0.0/33"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_network(text)
    with pytest.raises(ValueError):  # noqa: PT011
        Addresses((text,))


def test_a_network_of_mapped_addresses_is_one_of_ipv4() -> None:
    assert str(parse_network("::ffff:10.0.0.0/104")) == "10.0.0.0/8"
    assert str(parse_network("::/96")) == "::/96"
    assert str(parse_network("::/0")) == "::/0"
