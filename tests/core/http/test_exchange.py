"""The request to the model server and its answer: in any cuts, and broken in any way."""

import h11
import pytest
from tokenwire.http.exchange import Exchange, State
from tokenwire.types import UpstreamRequest

REQUEST = UpstreamRequest("POST", "/api/chat", b'{"model":"m"}')
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def exchange() -> Exchange:
    return Exchange("models.example:8443", "/ollama", REQUEST)


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
    request = Exchange("h", "", UpstreamRequest("GET", "/api/tags", headers=())).request
    assert request.startswith(b"GET /api/tags HTTP/1.1\r\n")
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
    one = exchange()
    assert (one.state, one.status) == (State.HEAD, None)
    body = b"".join(one.receive_data(answer[at : at + size]) for at in range(0, len(answer), size))
    assert body == b"one \n\ntwo three\n"
    assert one.status == 200
    if eof:
        assert one.state is State.BODY
        one.receive_eof()
    assert one.state is State.DONE
    assert one.over
    one.receive_eof()
    assert one.receive_data(b"late") == b""
    assert one.state is State.DONE


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
    one = exchange()
    size = 1 if bytewise else len(answer)
    for at in range(0, len(answer), size):
        one.receive_data(answer[at : at + size])
    assert (one.state, one.status, one.over) == (State.FAILED, status, True)
    assert one.receive_data(b"more") == b""
    one.receive_eof()
    assert one.state is State.FAILED


@pytest.mark.parametrize(
    "answer",
    [b"", HEAD, CHUNKED, CHUNKED + b"5\r\nab", HEAD + b"Content-Length: 3\r\n\r\nab"],
)
def test_an_answer_that_ends_early_fails(answer: bytes) -> None:
    one = exchange()
    if answer:
        one.receive_data(answer)
    assert not one.over
    one.receive_eof()
    assert one.state is State.FAILED


def test_a_status_is_known_before_the_body() -> None:
    one = exchange()
    one.receive_data(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n")
    assert (one.state, one.status) == (State.BODY, 404)


def test_what_came_before_a_broken_chunk_is_handed_on() -> None:
    one = exchange()
    assert one.receive_data(CHUNKED + b"2\r\nab\r\n2\r\ncdef") == b"abcd"
    assert one.state is State.FAILED
