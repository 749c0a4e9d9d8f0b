"""URLs as programs write them."""

import pytest
from tokenwire.client.url import Address, parse


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://h", Address("h", 80, False, "h", "/", ())),
        ("ws://H:81/ai", Address("h", 81, False, "H:81", "/ai", ())),
        ("https://h/a/b?x=1&y=", Address("h", 443, True, "h", "/a/b", (("x", "1"), ("y", "")))),
        ("wss://u:p@[::1]:9/", Address("::1", 9, True, "[::1]:9", "/", ())),
        ("http://h:0", Address("h", 0, False, "h:0", "/", ())),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse(url) == address


@pytest.mark.parametrize(
    "url", ["", "h:80", "ftp://h", "http://", "http:///x", "http://h:x", "//h"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        parse(url)
