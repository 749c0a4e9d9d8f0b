"""One connection in the client's role: requests and their answers, a WebSocket, wrong servers.

Rules of this file: what a server sends is fed whole and byte by byte, with the same outcome.
"""

import pytest
from core.client.net import frame, take_masked
from tokenwire.errors import LocalProtocolError
from tokenwire.http.client import (
    ClientConnection,
    ClientEvent,
    Failed,
    Message,
    Opened,
    Phase,
    check_request,
)
from tokenwire.http.websocket import accept_token
from tokenwire.testing.ids import SeededIds
from tokenwire.types import Chunk, Request, Response
from tokenwire.wire import Binary

GET = Request("GET", "/p", "q=1", (("x-y", "z"),))
POST = Request("POST", "/p", body=b"body")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def connection(max_bytes: int = 1_000) -> ClientConnection:
    return ClientConnection("h:1", max_bytes=max_bytes, max_fragments=4, ids=SeededIds())


def feed(http: ClientConnection, data: bytes) -> None:
    """Feed data byte by byte."""
    for byte in data:
        http.receive_data(bytes([byte]))


def events(http: ClientConnection) -> list[ClientEvent]:
    taken = list(http.events)
    http.events.clear()
    return taken


def sent(http: ClientConnection) -> bytes:
    return http.take(1_000_000).data


def answers(request: Request, data: bytes, *, eof: bool = False) -> list[ClientEvent]:
    """Return what comes of an answer, which must not depend on cuts."""
    outcomes = []
    for fed in (ClientConnection.receive_data, feed):
        http = connection()
        http.send_request(request)
        sent(http)
        fed(http, data)
        if eof:
            http.receive_eof()
        outcomes.append((events(http), http.phase, http.take(1_000_000)))
    assert outcomes[0] == outcomes[1]
    return outcomes[0][0]


def websocket(*, early: bytes = b"") -> tuple[ClientConnection, bytes]:
    """An open WebSocket, and the bytes of its handshake."""
    http = connection()
    http.send_upgrade(GET)
    head = sent(http)
    http.receive_data(accepting(head) + early)
    assert http.events.popleft() == Opened()
    return http, head


def key_of(head: bytes) -> str:
    (line,) = [line for line in head.split(b"\r\n") if line.startswith(b"sec-websocket-key: ")]
    return line.partition(b": ")[2].decode()


def accepting(head: bytes, **changes: bytes | None) -> bytes:
    """Return a 101 to a handshake, with changes in its headers."""
    fields: dict[str, bytes | None] = {
        "upgrade": b"WebSocket",
        "connection": b"Upgrade",
        "sec_websocket_accept": accept_token(key_of(head)).encode(),
        **changes,
    }
    lines = [
        name.replace("_", "-").encode() + b": " + value
        for name, value in fields.items()
        if value is not None
    ]
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *lines, b"", b""])


# -- requests ------------------------------------------------------------------------------------


def test_requests_one_after_the_other() -> None:
    http = connection()
    http.send_request(GET)
    assert http.has_output
    assert sent(http) == b"GET /p?q=1 HTTP/1.1\r\nhost: h:1\r\nx-y: z\r\n\r\n"
    feed(http, OK)
    assert events(http) == [Response(200, (("content-length", "2"),), b"ok")]
    http.send_request(POST)
    assert sent(http) == b"POST /p HTTP/1.1\r\nhost: h:1\r\ncontent-length: 4\r\n\r\nbody"
    http.receive_data(OK)
    assert events(http) == [Response(200, (("content-length", "2"),), b"ok")]
    assert not http.has_output


def test_one_request_at_a_time() -> None:
    http = connection()
    http.send_request(GET)
    for send in (http.send_request, http.send_upgrade):
        with pytest.raises(LocalProtocolError, match="busy or over"):
            send(GET)
    with pytest.raises(LocalProtocolError, match="not open"):
        http.send_messages([b"x"])
    http.close()
    with pytest.raises(LocalProtocolError, match="busy or over"):
        http.send_request(GET)


def test_bytes_are_taken_in_pieces() -> None:
    http = connection()
    http.send_request(GET)
    size = http.out_size
    pieces = iter(lambda: http.take(7).data, b"")
    assert len(b"".join(pieces)) == size > 0
    http.close()
    assert http.take(7).end
    assert not http.take(7).end


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + OK, b"ok"),
        (CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1_000, b"x" * 1_000),
    ],
)  # fmt: skip
def test_answers(data: bytes, body: bytes) -> None:
    (event,) = answers(GET, data)
    assert isinstance(event, Response)
    assert (event.status, event.body) == (200, body)


def test_an_answer_may_end_with_the_connection() -> None:
    (event,) = answers(GET, b"HTTP/1.1 200 OK\r\nX: \xe9\r\n\r\nok", eof=True)
    assert event == Response(200, (("x", "\xe9"),), b"ok")


def test_a_connection_is_used_again_only_where_the_server_keeps_it() -> None:
    for more, over in ((b"", False), (b"Connection: close\r\n", True)):
        http = connection()
        http.send_request(GET)
        sent(http)
        http.receive_data(OK.replace(b"Content", more + b"Content"))
        assert (http.phase is Phase.OVER) is over
        assert http.has_output is over
        assert http.take(10).end is over


@pytest.mark.parametrize("more", [b"x", OK])
@pytest.mark.parametrize("whole", [True, False])
def test_what_nobody_asked_for_ends_the_connection(more: bytes, whole: bool) -> None:
    http = connection()
    http.send_request(GET)
    sent(http)
    if whole:
        http.receive_data(OK + more)
    else:
        http.receive_data(OK)
        assert http.phase is Phase.IDLE
        http.receive_data(more)
    assert [type(event) for event in events(http)] == [Response]
    assert http.take(10).end
    http.receive_data(b"and on")
    http.receive_eof()
    assert events(http) == []


def test_an_idle_connection_may_end_unsaid() -> None:
    http = connection()
    http.receive_eof()
    assert http.phase is Phase.OVER
    assert events(http) == []
    assert http.take(10).end


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        CHUNKED + b"xyz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_answers_that_are_not_http(data: bytes) -> None:
    assert answers(GET, data) == [Failed("the server's answer is not HTTP")]


def test_a_header_without_end() -> None:
    http = connection()
    http.send_request(GET)
    for _ in range(20):
        http.receive_data(b"A" * 1_000)
    assert [type(event) for event in events(http)] == [Failed]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1_001,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_001,
        CHUNKED + b"a\r\n0123456789\r\n" * 101,
    ],
)
def test_answers_that_are_too_large(data: bytes) -> None:
    assert answers(GET, data) == [Failed("the server's answer is too large")]


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 2", OK[:-1]])
def test_an_answer_cut_short(data: bytes) -> None:
    (event,) = answers(GET, data, eof=True)
    assert isinstance(event, Failed)


def test_what_a_program_may_not_send() -> None:
    check_request("h", GET)
    for host, request in (
        ("h", Request("GET", "/", headers=(("Upgrade", "h2c"),))),
        ("h", Request("GET", "/", headers=(("x", "\x00"),))),
        ("ü", GET),
    ):
        with pytest.raises(LocalProtocolError):
            check_request(host, request)


# -- the WebSocket's handshake -------------------------------------------------------------------


def test_the_handshake() -> None:
    http, head = websocket()
    assert head.startswith(b"GET /p?q=1 HTTP/1.1\r\nhost: h:1\r\nx-y: z\r\n")
    assert b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n" in head
    assert len(key_of(head)) == 24
    assert http.phase is Phase.OPEN
    assert not http.has_output


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"upgrade": None}, "handshake is wrong"),
        ({"upgrade": b"h2c"}, "handshake is wrong"),
        ({"sec_websocket_accept": None}, "handshake is wrong"),
        ({"sec_websocket_accept": b"MDEyMzQ1Njc4OWFiY2RlZg=="}, "handshake is wrong"),
        ({"sec_websocket_accept": b"\xff"}, "handshake is wrong"),
        ({"sec_websocket_extensions": b"permessage-deflate"}, "not offered"),
        ({"sec_websocket_protocol": b"mqtt"}, "not offered"),
    ],
)
def test_a_wrong_handshake(changes: dict[str, bytes | None], reason: str) -> None:
    http = connection()
    http.send_upgrade(GET)
    feed(http, accepting(sent(http), **changes) + frame(b"x"))
    (event,) = events(http)
    assert isinstance(event, Failed)
    assert reason in event.reason
    assert http.take(10).end


def test_a_refused_handshake() -> None:
    http = connection()
    http.send_upgrade(GET)
    http.receive_data(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"
    )
    assert events(http) == [Failed("the server refused the WebSocket with status 403")]
    assert http.phase is Phase.OVER


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101 Switching"])
def test_a_handshake_cut_short(data: bytes) -> None:
    http = connection()
    http.send_upgrade(GET)
    http.receive_data(data)
    http.receive_eof()
    assert [type(event) for event in events(http)] == [Failed]


# -- its messages --------------------------------------------------------------------------------


def test_messages_both_ways() -> None:
    http, _ = websocket(early=frame(b"early"))
    feed(http, frame(b"text") + frame(b"\xff", 2) + frame(b"a", fin=False) + frame(b"b", 0))
    assert events(http) == [
        Message(b"early"),
        Message(b"text"),
        Message(Binary(b"\xff")),
        Message(b"ab"),
    ]
    http.send_messages([b"one", Binary(b"\x00"), "é".encode(), b"x" * 200, b"y" * 70_000])
    http.send_messages([])
    taken, rest = take_masked(sent(http))
    assert rest == b""
    assert taken == [
        (1, b"one"),
        (2, b"\x00"),
        (1, "é".encode()),
        (1, b"x" * 200),
        (1, b"y" * 70_000),
    ]


def test_each_frame_has_a_mask_of_its_own_drawn_from_the_ids() -> None:
    first, _ = websocket()
    second, _ = websocket()
    for http in (first, second):
        http.send_messages([b"\x00" * 8, b"\x00" * 8])
    assert first.out_size == 28
    data = sent(first)
    assert data == sent(second)
    assert data[2:6] != data[16:20]


def test_binary_and_text_are_told_apart() -> None:
    http, _ = websocket()
    http.receive_data(frame(b"a") + frame(b"a", 2))
    text, binary = events(http)
    assert isinstance(text, Message)
    assert isinstance(binary, Message)
    assert type(text.message) is bytes
    assert type(binary.message) is Binary


def test_pings_are_answered_while_the_socket_has_room() -> None:
    http, _ = websocket()
    http.send_messages([b"first"])
    http.receive_data(b"".join(frame(b"%d" % number, 9) for number in range(1_000)))
    assert http.has_output
    data = http.take(4).data + b"".join(iter(lambda: http.take(64).data, b""))
    taken, rest = take_masked(data)
    assert rest == b""
    latest = [(10, b"%d" % number) for number in range(984, 1_000)]
    assert taken == [(1, b"first"), *latest], "a bounded number, the latest (RFC 6455 5.5.3)"
    assert not http.has_output


def test_a_close_is_answered() -> None:
    http, _ = websocket()
    feed(http, frame(b"last") + frame(b"\x03\xe9", 8) + frame(b"after"))
    message, failed = events(http)
    assert message == Message(b"last")
    assert failed == Failed("the server closed the WebSocket, or broke its rules")
    chunk = http.take(100)
    assert take_masked(chunk.data)[0] == [(8, b"\x03\xe9")]
    assert chunk.end


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x81" + bytes(4) + b"x", 1002),  # a server does not mask
        (b"\xc1\x01x", 1002),
        (frame(b"\xff"), 1007),
        (frame(b"x" * 1_001), 1009),
        (frame(b"x" * 600, fin=False) + frame(b"x" * 600, 0), 1009),
        (frame(b"", fin=False) + frame(b"", 0, fin=False) * 4, 1009),
        (b"\x82\x7f" + (2**62).to_bytes(8, "big"), 1009),
    ],
)
def test_a_server_that_breaks_the_rules(data: bytes, code: int) -> None:
    http, _ = websocket()
    feed(http, frame(b"before") + data)
    message, failed = events(http)
    assert message == Message(b"before")
    assert isinstance(failed, Failed)
    assert take_masked(sent(http))[0] == [(8, code.to_bytes(2, "big"))]


def test_the_connection_of_a_websocket_ends() -> None:
    http, _ = websocket()
    http.receive_eof()
    assert events(http) == [Failed("the server closed the connection")]
    assert http.take(10).end


@pytest.mark.parametrize("how", ["close", "eof"])
def test_leaving_a_websocket(how: str) -> None:
    http, _ = websocket()
    http.receive_data(frame(b"p", 9))
    http.leave()
    with pytest.raises(LocalProtocolError, match="not open"):
        http.leave()
    with pytest.raises(LocalProtocolError, match="not open"):
        http.send_messages([b"x"])
    chunk = http.take(100)
    assert take_masked(chunk.data)[0] == [(10, b"p"), (8, b"\x03\xe8")]
    assert not chunk.end, "the server's close is awaited"
    feed(http, frame(b"not looked at") + frame(b"", 9))
    assert events(http) == []
    if how == "close":
        feed(http, frame(b"\x03\xe8", 8))
    else:
        http.receive_eof()
    assert [type(event) for event in events(http)] == [Failed]
    assert http.take(100) == Chunk(b"", end=True)


def test_closing_a_websocket() -> None:
    http, _ = websocket()
    http.send_messages([b"last"])
    http.receive_data(frame(b"not looked at") + frame(b"", 9))
    http.close()
    assert events(http) == []
    with pytest.raises(LocalProtocolError, match="not open"):
        http.send_messages([b"x"])
    http.close()
    chunk = http.take(1_000)
    assert take_masked(chunk.data)[0] == [(1, b"last"), (10, b""), (8, b"\x03\xe8")]
    assert chunk.end
    http.receive_data(frame(b"after"))
    assert events(http) == []
    assert not http.has_output
