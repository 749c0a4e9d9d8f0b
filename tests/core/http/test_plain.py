"""The model server's plain address, and looks at what it offers: whole, cut, too large, broken."""

import h11
import pytest
from tokenwire.http.exchange import Exchange
from tokenwire.http.plain import PlainAddress, parse
from tokenwire.types import Millis, StreamId, UpstreamRequest

NOW = Millis(7)
LOOK = UpstreamRequest("GET", "/api/tags")
ADDRESS = PlainAddress("models.example", 8080, "models.example:8080", "/ollama")


class Heard:
    """What the core is told (`plain.Core`)."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def upstream_answered(self, stream: StreamId, status: int, now: Millis) -> None:
        self.told.append((stream, status, now))

    def receive_upstream(self, stream: StreamId, data: bytes, now: Millis) -> None:
        self.told.append((stream, data, now))

    def upstream_eof(self, stream: StreamId, now: Millis) -> None:
        self.told.append((stream, "eof", now))

    def upstream_failed(self, stream: StreamId, now: Millis, *, reached: bool) -> None:
        self.told.append((stream, reached, now))

    def upstream_probed(self, status: int | None, body: bytes, now: Millis) -> None:
        self.told.append((status, body, now))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://localhost", PlainAddress("localhost", 80, "localhost", "")),
        ("http://localhost:11434", PlainAddress("localhost", 11434, "localhost:11434", "")),
        ("http://localhost/", PlainAddress("localhost", 80, "localhost", "")),
        ("http://10.0.0.1:1/a/b_c/", PlainAddress("10.0.0.1", 1, "10.0.0.1:1", "/a/b_c")),
        ("http://[::1]:65535", PlainAddress("::1", 65_535, "[::1]:65535", "")),
    ],
)
def test_a_plain_address(url: str, address: PlainAddress) -> None:
    assert parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:11434",
        "https://localhost",
        "ftp://localhost",
        "http://",
        "http://:80",
        "http://h:port",
        "http://999.1.1.1",
        "http://1.2.3",
        "http://[:::]:1",
        "http://a..b",
        "http://localhost:0",
        "http://localhost:65536",
        "http://me:secret@localhost",
        "http://m\xfcnchen.example",
        "http://[fe80::1%25eth0]",
        "http://localhost?key=1",
        "http://localhost/a b",
        "http://localhost/%61",
        "http://localhost\r\nx: y",
        "http://localhost\n",
    ],
)
def test_no_plain_address(url: str) -> None:
    assert parse(url) is None


def test_the_request_of_a_stream() -> None:
    heard = Heard()
    exchange = ADDRESS.exchange(heard, StreamId(3), UpstreamRequest("POST", "/api/chat", b"{}"))
    assert exchange.request.startswith(b"POST /ollama/api/chat HTTP/1.1\r\n")
    assert b"models.example:8080\r\n" in exchange.request
    exchange.receive_data(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n.", NOW)
    assert heard.told == [(3, 200, NOW), (3, b".", NOW), (3, "eof", NOW)]


def probe(heard: Heard) -> Exchange:
    return ADDRESS.probe(heard, LOOK)


def test_the_request_of_a_probe() -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(probe(Heard()).request)
    head = server.next_event()
    assert isinstance(head, h11.Request)
    assert (head.method, head.target) == (b"GET", b"/ollama/api/tags")


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("status", [200, 500])
def test_the_answer_to_a_probe_is_told_whole_and_once(size: int, status: int) -> None:
    heard = Heard()
    one = probe(heard)
    answer = b'HTTP/1.1 %d X\r\ncontent-length: 13\r\n\r\n{"models":[]}' % status
    for at in range(0, len(answer), size):
        assert heard.told == []
        one.receive_data(answer[at : at + size], NOW)
    one.connection_lost(NOW)
    assert heard.told == [(status, b'{"models":[]}', NOW)]


@pytest.mark.parametrize("came", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{"])
def test_a_probe_that_fails(came: bytes) -> None:
    heard = Heard()
    one = probe(heard)
    if came:
        one.receive_data(came, NOW)
    one.connection_lost(NOW)
    one.connection_lost(NOW)
    assert heard.told == [(None, b"", NOW)]


def test_of_a_list_without_end_so_much_is_kept() -> None:
    heard = Heard()
    one = probe(heard)
    piece = b"x" * (512 * 1024)
    one.receive_data(b"HTTP/1.1 200 OK\r\n\r\n", NOW)
    for _ in range(6):
        one.receive_data(piece, NOW)
    one.receive_eof(NOW)
    [told] = heard.told
    assert told == (200, piece * 3, NOW)
