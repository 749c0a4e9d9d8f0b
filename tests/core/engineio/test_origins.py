"""Origins: an exact list, and the CORS headers that go with it."""

import pytest
from tokenwire.engineio.origins import Origins
from tokenwire.types import Headers, Request

LISTED = Origins(("http://a", "https://b:8443"), credentials=True)
ANY = Origins(("*",), credentials=False)


def request(*origins: str, headers: Headers = ()) -> Request:
    fields = (*(("origin", origin) for origin in origins), *headers)
    return Request("GET", "/socket.io/", headers=fields)


@pytest.mark.parametrize(
    ("origins", "listed", "any_origin"),
    [
        ((), True, True),
        (("http://a",), True, True),
        (("https://b:8443",), True, True),
        (("http://a/",), False, True),
        (("HTTP://A",), False, True),
        (("https://b",), False, True),
        (("http://a.evil",), False, True),
        (("",), False, True),
        (("null",), False, False),
        (("http://a", "http://a"), False, False),
    ],
)
def test_an_origin_is_allowed_or_not(
    origins: tuple[str, ...], listed: bool, any_origin: bool
) -> None:
    assert LISTED.allows(request(*origins)) is listed
    assert ANY.allows(request(*origins)) is any_origin


@pytest.mark.parametrize(
    ("rules", "origins", "headers"),
    [
        (LISTED, (), {"vary": "Origin"}),
        (
            LISTED,
            ("http://a",),
            {
                "access-control-allow-origin": "http://a",
                "access-control-allow-credentials": "true",
                "vary": "Origin",
            },
        ),
        (
            Origins(("http://a",), credentials=False),
            ("http://a",),
            {"access-control-allow-origin": "http://a", "vary": "Origin"},
        ),
        (ANY, (), {}),
        (ANY, ("http://x",), {"access-control-allow-origin": "*"}),
    ],
)
def test_an_answer_says_who_may_read_it(
    rules: Origins, origins: tuple[str, ...], headers: dict[str, str]
) -> None:
    got = rules.headers(request(*origins))
    assert dict(got) == headers
    assert len(got) == len(headers)


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        (None, None),
        ("content-type", "content-type"),
        ("X-A, x-b", "X-A, x-b"),
        ("", None),
        ("a b", None),
        ("a,,b", None),
        ("a;b", None),
        (", ".join(["a"] * 33), None),
    ],
)
def test_a_preflight_allows_the_headers_that_are_asked_for(
    wanted: str | None, allowed: str | None
) -> None:
    fields = () if wanted is None else (("access-control-request-headers", wanted),)
    response = LISTED.preflight(request("http://a", headers=fields))
    headers = dict(response.headers)
    assert response.status == 204
    assert headers["access-control-allow-methods"] == "GET,POST"
    assert headers["access-control-allow-origin"] == "http://a"
    assert headers.get("access-control-allow-headers") == allowed
