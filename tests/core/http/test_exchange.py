"""The request to the model server and its answer: in any cuts, and broken in any way."""

import h11
import pytest
from tokenwire.http.exchange import Exchange, State
from tokenwire.types import Millis, StreamId, UpstreamRequest

REQUEST = UpstreamRequest("POST", "/api/chat", b'{"model":"m"}')
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


NOW = Millis(7)
WHOLE = b"one \n\ntwo three\n"


class Heard:
    """What the core is told (`exchange.Listener`)."""

    def __init__(self) -> None:
        self.body = b""
        self.told: list[str] = []
        """All but pieces of the body, in order."""

    def upstream_answered(self, stream: StreamId, status: int, now: Millis) -> None:
        assert (stream, now, self.body) == (1, NOW, b"")
        self.told.append(str(status))

    def receive_upstream(self, stream: StreamId, data: bytes, now: Millis) -> None:
        assert (stream, now) == (1, NOW)
        assert data
        self.body += data

    def upstream_eof(self, stream: StreamId, now: Millis) -> None:
        assert (stream, now) == (1, NOW)
        self.told.append("eof")

    def upstream_failed(self, stream: StreamId, now: Millis, *, reached: bool) -> None:
        assert (stream, now) == (1, NOW)
        self.told.append("failed" if reached else "not reached")


def exchange(heard: Heard | None = None, request: UpstreamRequest = REQUEST) -> Exchange:
    return Exchange(heard or Heard(), StreamId(1), "models.example:8443", "/ollama", request)


def feed(one: Exchange, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        one.receive_data(data[at : at + size], NOW)


def test_the_request_is_one_that_a_server_reads() -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(exchange().request)
    head, data, end = (server.next_event() for _ in range(3))
    assert isinstance(head, h11.Request)
    assert (head.method, head.target) == (b"POST", b"/ollama/api/chat")
    headers = dict(head.headers)
    assert headers[b"host"] == b"models.example:8443"
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"accept-encoding"] == b"identity"
    assert headers[b"connection"] == b"close"
    assert isinstance(data, h11.Data)
    assert bytes(data.data) == REQUEST.body
    assert isinstance(end, h11.EndOfMessage)


def test_a_request_without_a_body_has_none() -> None:
    request = exchange(request=UpstreamRequest("GET", "/api/tags", headers=())).request
    assert request.startswith(b"GET /ollama/api/tags HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
@pytest.mark.parametrize(
    ("answer", "eof"),
    [
        (CHUNKED + b"6\r\none \n\n\r\n00A\r\ntwo three\n\r\n0\r\n\r\n", False),
        (HEAD.replace(b"OK", b"") + b"Content-Length: 16\r\n\r\none \n\ntwo three\n", False),
        (HEAD + b"\r\none \n\ntwo three\n", True),
        (
            b"HTTP/1.1 103 Early Hints\r\n\r\n"
            + CHUNKED.replace(b"chunked", b"Chunked")
            + b"10\r\none \n\ntwo three\n\r\n0\r\n\r\n",
            False,
        ),
        (CHUNKED + b"10\r\none \n\ntwo three\n\r\n0\r\n\r\nmore", False),
    ],
    ids=["chunks", "a length", "until the end", "after early hints", "and more"],
)
def test_an_answer_is_whole_in_any_cuts(answer: bytes, eof: bool, size: int) -> None:
    heard = Heard()
    one = exchange(heard)
    states = [one.state]
    feed(one, answer, size)
    states.append(one.state)
    if eof:
        one.receive_eof(NOW)
    assert states == [State.HEAD, State.BODY if eof else State.DONE]
    assert (one.state, one.over) == (State.DONE, True)
    assert (heard.body, heard.told) == (WHOLE, ["200", "eof"])
    one.receive_data(b"late", NOW)
    one.receive_eof(NOW)
    one.connection_lost(NOW)
    assert (heard.body, heard.told) == (WHOLE, ["200", "eof"])


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 20_000, None),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", None),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", None),
        (CHUNKED + b"x\r\n", 200),
        (CHUNKED + b"2\r\nabcd", 200),
    ],
)
def test_a_broken_answer_fails(answer: bytes, status: int | None, bytewise: bool) -> None:
    heard = Heard()
    one = exchange(heard)
    feed(one, answer, 1 if bytewise else len(answer))
    assert (one.state, one.over) == (State.FAILED, True)
    told = ["not reached"] if status is None else [str(status), "failed"]
    assert heard.told == told
    one.receive_data(b"more", NOW)
    one.receive_eof(NOW)
    one.connection_lost(NOW)
    assert heard.told == told


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", ["not reached"]),
        (HEAD, ["not reached"]),
        (CHUNKED, ["200", "failed"]),
        (CHUNKED + b"5\r\nab", ["200", "failed"]),
        (HEAD + b"Content-Length: 3\r\n\r\nab", ["200", "failed"]),
    ],
)
def test_an_answer_that_ends_early_fails(answer: bytes, told: list[str], lost: bool) -> None:
    heard = Heard()
    one = exchange(heard)
    if answer:
        one.receive_data(answer, NOW)
    assert not one.over
    if lost:
        one.connection_lost(NOW)
    else:
        one.receive_eof(NOW)
    assert (one.state, heard.told) == (State.FAILED, told)


def test_an_answer_until_the_end_is_not_whole_when_its_connection_is_lost() -> None:
    heard = Heard()
    one = exchange(heard)
    one.receive_data(HEAD + b"\r\nab", NOW)
    one.connection_lost(NOW)
    assert (heard.body, heard.told) == (b"ab", ["200", "failed"])


def test_a_status_is_told_before_the_body() -> None:
    heard = Heard()
    one = exchange(heard)
    one.receive_data(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n", NOW)
    assert (one.state, heard.told) == (State.BODY, ["404"])


def test_what_came_before_a_broken_chunk_is_handed_on() -> None:
    heard = Heard()
    one = exchange(heard)
    one.receive_data(CHUNKED + b"2\r\nab\r\n2\r\ncdef", NOW)
    assert (one.state, heard.body) == (State.FAILED, b"abcd")
    assert heard.told == ["200", "failed"]
