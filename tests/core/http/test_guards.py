"""The guards around h11, called alone. (Whole requests, and every cut: test_connection.py.)"""

import pytest
from core.costs import cpu_time
from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.http import guards
from tokenwire.types import Headers

CONFIG = Config(header_bytes=100)
HOST: Headers = (("host", "x"),)
UPGRADE: Headers = (
    ("connection", "keep-alive"),
    ("connection", "x, upgrade"),
    ("upgrade", "WebSocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "MDEyMzQ1Njc4OWFiY2RlZg=="),
)


def without(name: str, *more: tuple[str, str]) -> Headers:
    return (*(field for field in UPGRADE if field[0] != name), *more)


@pytest.mark.parametrize(
    ("data", "size"),
    [(b"", None), (b"GET", None), (b"A\r\n\r", None), (b"A\r\n\r\n", 5), (b"A\r\n\r\nB\n", 5)],
)
def test_the_end_of_a_head_is_found(data: bytes, size: int | None) -> None:
    for seen in range(min(len(data), 5)):
        assert guards.find_head(bytearray(data), seen, CONFIG) == size


@pytest.mark.parametrize(
    ("data", "status"),
    [(b" A", 400), (b"A\nB", 400), (b"A\rB", 400), (b"A" * 101, 414), (b"A\r\n" + b"b" * 100, 431)],
)
def test_a_head_that_cannot_end_well_is_refused_early(data: bytes, status: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        guards.find_head(bytearray(data), 0, CONFIG)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\na: \x7f\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1,1\r\n\r\n", 400),
    ],
)
def test_a_bad_head_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        guards.check_head(head, CONFIG)
    assert caught.value.status == status


def test_a_good_head_passes() -> None:
    guards.check_head(b"GET / HTTP/1.1\r\nx-content-length: a\r\nContent-Length: 3\r\n\r\n", CONFIG)


@pytest.mark.parametrize(
    ("method", "target", "version", "headers", "status"),
    [
        ("GET", b"/", b"1.2", HOST, 505),
        ("GET", b"/" + b"a" * 2_048, b"1.1", HOST, 414),
        ("CONNECT", b"/", b"1.1", HOST, 501),
        ("GET", b"x", b"1.1", HOST, 400),
        ("GET", b"/", b"1.1", HOST + HOST, 400),
        ("GET", b"/", b"1.1", (("host", "a/b"),), 400),
        ("GET", b"/", b"1.0", (("transfer-encoding", "chunked"),), 400),
        ("GET", b"/", b"1.1", (("content-length", "1000001"),), 413),
    ],
)
def test_a_bad_request_is_refused(
    method: str, target: bytes, version: bytes, headers: Headers, status: int
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        guards.check_request(method, target, version, headers, CONFIG)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "host",
    [
        "",
        "x",
        "x:",
        "x:80",
        "localhost:65535",
        "192.0.2.1:80",
        "[::1]",
        "[2001:db8::1]:80",
        "a_b.c-d",
    ],
)
def test_a_host_is_accepted(host: str) -> None:
    guards.check_request("GET", b"/", b"1.1", (("host", host),), CONFIG)
    guards.check_request("OPTIONS", b"*", b"1.0", (), CONFIG)


def test_a_handshake_is_accepted() -> None:
    assert guards.is_upgrade(UPGRADE)
    assert not guards.is_upgrade((("upgrade", "h2c"),))
    assert guards.check_upgrade("GET", b"1.1", UPGRADE) == "MDEyMzQ1Njc4OWFiY2RlZg=="


@pytest.mark.parametrize(
    ("method", "version", "headers", "status"),
    [
        ("PUT", b"1.1", UPGRADE, 400),
        ("GET", b"1.0", UPGRADE, 400),
        ("GET", b"1.1", without("connection"), 400),
        ("GET", b"1.1", without("upgrade", ("upgrade", "websockets")), 400),
        ("GET", b"1.1", (*UPGRADE, ("content-length", "1")), 400),
        ("GET", b"1.1", (*UPGRADE, ("transfer-encoding", "chunked")), 400),
        ("GET", b"1.1", without("sec-websocket-version"), 426),
        ("GET", b"1.1", without("sec-websocket-key"), 400),
        ("GET", b"1.1", without("sec-websocket-key", ("sec-websocket-key", "x")), 400),
        ("GET", b"1.1", without("sec-websocket-key", ("sec-websocket-key", "é")), 400),
    ],
)
def test_a_bad_handshake_is_refused(
    method: str, version: bytes, headers: Headers, status: int
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        guards.check_upgrade(method, version, headers)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "value", ["a, " * 5_000, "a;" * 8_000, " " * 16_000, ",\t" * 8_000, "constructor," * 1_300]
)
def test_16_kib_of_a_header_are_checked_in_5_ms(value: str) -> None:
    headers: Headers = (("host", "x"), ("connection", value), ("upgrade", "websocket"))
    head = f"GET / HTTP/1.1\r\nContent-Length: {value}\r\n\r\n".encode()

    def check() -> None:
        guards.find_head(bytearray(head), 0, Config())
        with pytest.raises(RemoteProtocolError):
            guards.check_head(head, Config())
        with pytest.raises(RemoteProtocolError):
            guards.check_upgrade("GET", b"1.1", headers)

    assert cpu_time(check) < 0.005
