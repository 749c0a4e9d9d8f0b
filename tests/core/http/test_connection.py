"""One connection's HTTP: framing that nobody can read differently, one answer to each request.

Rules of this file: an HttpConnection, bytes in and bytes out. What must not depend on how the bytes
are cut is fed whole, byte by byte, and in two halves at every offset.
"""

import pytest
from tokenwire.config import Config
from tokenwire.http.connection import HttpConnection, Phase
from tokenwire.http.events import MessageReceived, WebSocketClosed
from tokenwire.testing.world import masked_frame
from tokenwire.types import Peer, Request, Response

CONFIG = Config(max_payload=1_000, header_bytes=1_024, target_bytes=200)
GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
OK = Response(200, (("content-type", "text/plain"),), b"fine")


def connection(config: Config = CONFIG) -> HttpConnection:
    return HttpConnection(Peer("192.0.2.1", 5), config)


def feed(data: bytes, config: Config = CONFIG) -> HttpConnection:
    http = connection(config)
    http.receive_data(data)
    return http


def request(http: HttpConnection) -> Request:
    event = http.events.pop(0)
    assert isinstance(event, Request)
    return event


def sent(http: HttpConnection) -> bytes:
    return http.take(1_000_000).data


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST /a HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body


def get(headers: bytes) -> bytes:
    return b"GET /a HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"


def upgraded(rest: bytes = b"") -> HttpConnection:
    http = feed(UPGRADE + b"\r\n" + rest)
    http.send_response(Response(101))
    assert http.phase is Phase.UPGRADED
    assert sent(http).startswith(b"HTTP/1.1 101 ")
    return http


# -- requests --------------------------------------------------------------------------------------


def test_a_request_is_read() -> None:
    http = connection()
    assert http.idle
    http.receive_data(GET)
    got = request(http)
    assert (got.method, got.path, got.query, got.body) == ("GET", "/a", "b=c", b"")
    assert got.headers == (("host", "x"),)
    assert got.peer == Peer("192.0.2.1", 5)
    assert not got.upgrade
    assert not http.idle


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (post(b"Content-Length: 5\r\n", b"hello"), b"hello"),
        (post(b"Content-Length: 0\r\n"), b""),
        (post(b"content-length:\t3 \r\n", b"abc"), b"abc"),
        (post(b""), b""),
        (post(b"Transfer-Encoding: chunked\r\n", b"2\r\nhe\r\n003\r\nllo\r\n0\r\n\r\n"), b"hello"),
        (post(b"Transfer-Encoding: CHUNKED\r\n", b"0\r\n\r\n"), b""),
        (post(b"Content-Length: 1000\r\n", b"x" * 1000), b"x" * 1000),
        (post(b"Transfer-Encoding: chunked\r\n", b"3E8\r\n%b\r\n0\r\n\r\n" % (b"x" * 1000)), None),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        (b"BREW /a HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b""),
        (b"GET /a HTTP/1.0\r\n\r\n", b""),
    ],
)
def test_a_request_is_the_same_in_any_cuts(data: bytes, body: bytes | None) -> None:
    whole = request(feed(data))
    assert whole.body == (b"x" * 1000 if body is None else body)
    bytewise = connection()
    for index in range(len(data)):
        assert not bytewise.events
        bytewise.receive_data(data[index : index + 1])
    assert request(bytewise) == whole


def test_the_head_is_known_while_the_body_comes() -> None:
    http = connection()
    seen = [http.head]
    for piece in (post(b"Content-Length: 2\r\n", b"h"), b"i"):
        http.receive_data(piece)
        seen.append(http.head)
    assert [head and head.path for head in seen] == [None, "/a", None]


# -- what is refused -------------------------------------------------------------------------------

CHUNKED = b"Transfer-Encoding: chunked\r\n"
REFUSED: dict[str, tuple[bytes, int]] = {
    "TE with CL": (post(CHUNKED + b"Content-Length: 3\r\n", b"3\r\nabc\r\n0\r\n\r\n"), 400),
    "CL with TE": (post(b"Content-Length: 3\r\n" + CHUNKED, b"abc"), 400),
    "TE in HTTP/1.0": (b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE twice": (post(CHUNKED + CHUNKED), 501),
    "TE of another kind": (post(b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    "TE with a space": (post(b"Transfer-Encoding : chunked\r\n"), 400),
    "TE with a vertical tab": (post(b"Transfer-Encoding: \x0bchunked\r\n"), 400),
    "HTTP/9.9": (b"GET /a HTTP/9.9\r\nHost: x\r\n\r\n", 505),
    "HTTP/2.0": (b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "no version": (b"GET /a\r\nHost: x\r\n\r\n", 400),
    "no host": (b"GET /a HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "bare line feeds": (b"GET /a HTTP/1.1\nHost: x\n\n", 400),
    "one bare line feed": (b"GET /a HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "a bare line feed at the end": (b"GET /a HTTP/1.1\r\nHost: x\r\n\n", 400),
    "a bare carriage return": (b"GET /a HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400),
    "two carriage returns": (b"GET /a HTTP/1.1\r\r\nHost: x\r\n\r\n", 400),
    "an empty line first": (b"\r\n" + GET, 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00", 400),
    "obs-fold": (get(b"A: b\r\n c\r\n"), 400),
    "obs-fold with a tab": (get(b"A: b\r\n\tc\r\n"), 400),
    "a control character": (get(b"A: \x01\r\n"), 400),
    "NUL in the target": (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "no colon": (get(b"A\r\n"), 400),
    "CL twice": (post(b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"), 400),
    "CL twice, different": (post(b"Content-Length: 3\r\ncontent-length: 4\r\n", b"abc"), 400),
    "CL 3, 3": (post(b"Content-Length: 3, 3\r\n", b"abc"), 400),
    "CL +3": (post(b"Content-Length: +3\r\n", b"abc"), 400),
    "CL -1": (post(b"Content-Length: -1\r\n"), 400),
    "CL 0x3": (post(b"Content-Length: 0x3\r\n", b"abc"), 400),
    "CL 3.0": (post(b"Content-Length: 3.0\r\n", b"abc"), 400),
    "CL empty": (post(b"Content-Length:\r\n"), 400),
    "CL of 21 digits": (post(b"Content-Length: 000000000000000000003\r\n", b"abc"), 400),
    "Content-Type twice": (post(b"Content-Type: a/b\r\nContent-Type: a/b\r\n"), 400),
    "CONNECT": (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "CONNECT of a path": (b"CONNECT /a HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "an absolute target": (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a star": (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a long target": (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 200), 414),
    "an endless target": (b"GET /" + b"a" * 2000, 414),
    "101 headers": (get(b"A:\r\n" * 100), 431),
    "20,000 tiny headers": (get(b"A:\r\n" * 20_000), 431),
    "1 KiB of headers": (get(b"A: " + b"b" * 1000 + b"\r\n"), 431),
    "endless headers": (get(b"A: " + b"b" * 3000)[:-2], 431),
    "a body over the limit": (post(b"Content-Length: 1001\r\n", b"x" * 1001), 413),
    "a body of 10^19": (post(b"Content-Length: 10000000000000000000\r\n"), 413),
    "a chunk over the limit": (post(CHUNKED, b"3E9\r\n"), 413),
    "chunks over the limit": (post(CHUNKED, b"3E8\r\n%b\r\n1\r\n" % (b"x" * 1000)), 413),
    "a huge chunk": (post(CHUNKED, b"fffffff0\r\n"), 413),
    "a chunk size of 9 digits": (post(CHUNKED, b"000000001\r\nx\r\n"), 400),
    "a chunk without a size": (post(CHUNKED, b"\r\n"), 400),
    "a chunk size of words": (post(CHUNKED, b"xyz\r\n"), 400),
    "a negative chunk": (post(CHUNKED, b"-1\r\n"), 400),
    "a chunk extension": (post(CHUNKED, b"1;a=b\r\nx\r\n0\r\n\r\n"), 400),
    "a chunk line of a bare line feed": (post(CHUNKED, b"1\nx\r\n"), 400),
    "a chunk longer than its size": (post(CHUNKED, b"3\r\nabcXX"), 400),
    "a chunk shorter than its size": (post(CHUNKED, b"3\r\nab\r\n0\r\n\r\n"), 400),
    "a trailer": (post(CHUNKED, b"0\r\nA: b\r\n\r\n"), 400),
    **{
        f"Host {host.decode('latin-1')}": (
            b"GET /a HTTP/1.1\r\nHost: %b\r\n\r\n" % host,
            400,
        )
        for host in (b"a/b?c", b"a b", b"a@b", b"[::1", b"::1", b"a:80:80", b"a:x", b"\xe9", b"a#b")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_request_gets_one_answer_and_the_end_in_any_cuts(name: str) -> None:
    data, status = REFUSED[name]
    assert refusal(data) == status
    assert refusal(*(data[index : index + 1] for index in range(len(data)))) == status
    cuts = range(1, len(data), max(1, len(data) // 300))
    assert {refusal(data[:cut], data[cut:]) for cut in cuts} <= {status}


def refusal(*pieces: bytes) -> int:
    """Feed the pieces; check that there is one answer, an end, and nothing kept."""
    http = connection()
    for piece in pieces:
        http.receive_data(piece)
    assert not http.events
    assert http.phase in (Phase.OVER, Phase.DRAIN)
    assert not http.reads_ahead
    chunk = http.take(100_000)
    head, _, body = chunk.data.partition(b"\r\n\r\n")
    assert chunk.data.lower().count(b"connection: close") == 1
    assert b"\r\ncontent-length: %d" % len(body) in head.lower()
    status = int(head.split()[1])
    assert (status == 413) == (http.phase is Phase.DRAIN) == (not chunk.end)
    if status == 413:
        assert body == b""
    http.receive_data(b"x" * 100_000)
    assert http.take(10).data == b""
    return status


@pytest.mark.parametrize("headers", [b"Host: a/b\r\n", b"Host: x\r\nTransfer-Encoding: gzip\r\n"])
def test_a_bad_head_request_is_answered(headers: bytes) -> None:
    http = feed(b"HEAD /a HTTP/1.1\r\n" + headers + b"\r\n")
    assert sent(http).startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))


def test_a_bad_host_in_a_head_request_gets_no_body() -> None:
    assert sent(feed(b"HEAD /a HTTP/1.1\r\nHost: a/b\r\n\r\n")).endswith(b"\r\n\r\n")


def test_100_headers_and_a_head_of_the_limit_pass() -> None:
    assert request(feed(get(b"A:\r\n" * 99))).header("a") == ""
    head = get(b"A: " + b"b" * (1024 - len(get(b"A: \r\n"))) + b"\r\n")
    assert len(head) == 1024
    assert len(feed(head).events) == 1
    assert feed(head.replace(b"A: ", b"A: b")).phase is Phase.OVER


def test_what_follows_a_refused_body_is_thrown_away_until_the_peer_is_done() -> None:
    http = feed(post(b"Content-Length: 2000\r\n", b"x"))
    assert http.phase is Phase.DRAIN
    assert not http.take(1_000).end
    http.receive_data(b"x" * 1_999)
    assert not http.has_output
    http.receive_eof()
    assert http.take(10).end


# -- answers ---------------------------------------------------------------------------------------


def test_requests_that_come_together_are_answered_one_by_one() -> None:
    data = GET + GET.replace(b"/a", b"/b") + post(b"Content-Length: 2\r\n", b"hi")
    http = feed(data)
    assert request(http).path == "/a"
    assert not http.events
    http.send_response(OK)
    assert request(http).path == "/b"
    assert not http.events
    http.send_response(Response(204))
    assert request(http).body == b"hi"
    assert sent(http).count(b"HTTP/1.1") == 2
    http.send_response(OK)
    assert http.idle
    http.receive_data(b"G")
    assert not http.idle


def test_a_peer_that_sends_ahead_is_noticed() -> None:
    http = feed(GET + b"G" * 100, Config(read_ahead_bytes=100))
    seen = [http.reads_ahead]
    http.receive_data(b"G")
    seen.append(http.reads_ahead)
    http.send_response(OK)
    seen.append(http.reads_ahead)
    assert seen == [False, True, False]


def test_a_long_head_is_not_ahead_of_anything() -> None:
    assert not feed(GET[:-2], Config(read_ahead_bytes=1)).reads_ahead


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1\r\nHost: x\r\n", False),
        (b"HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n", False),
        (b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", True),
        (b"HTTP/1.0\r\n", True),
        (b"HTTP/1.0\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_keep_alive(head: bytes, closes: bool) -> None:
    http = feed(b"GET /a " + head + b"\r\n")
    http.send_response(OK)
    chunk = http.take(10_000)
    assert chunk.end is closes
    assert (b"connection: close" in chunk.data.lower()) is closes
    assert (http.phase is Phase.OVER) is closes


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    http = feed(GET.replace(b"GET", b"HEAD"))
    assert request(http).method == "HEAD"
    http.send_response(OK)
    answer = sent(http)
    assert b"content-length: 4" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")
    http.receive_data(GET)
    assert request(http).method == "GET"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_says_no_length(status: int) -> None:
    http = feed(GET)
    http.send_response(Response(status))
    assert b"content-length" not in sent(http).lower()


def test_an_answer_is_taken_in_pieces() -> None:
    http = feed(get(b"Connection: close\r\n"))
    http.send_response(OK)
    size = http.out_size
    chunks = []
    while http.has_output:
        chunks.append(http.take(7))
    assert sum(len(chunk.data) for chunk in chunks) == size
    assert [chunk.end for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert http.out_size == 0
    assert not http.take(7).end


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        (b"Expect: 100-continue\r\nContent-Length: 2\r\n", True),
        (b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", True),
        (b"Expect: 100-continue\r\nContent-Length: 0\r\n", False),
        (b"Expect: 100-continue\r\n", False),
    ],
)
def test_a_client_that_waits_for_100_hears_it(headers: bytes, answered: bool) -> None:
    assert sent(feed(post(headers))) == (b"HTTP/1.1 100 \r\n\r\n" if answered else b"")


def test_a_body_that_is_too_large_gets_no_100() -> None:
    http = feed(post(b"Expect: 100-continue\r\nContent-Length: 1001\r\n"))
    assert sent(http).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("data", [b"", b"GET /", post(b"Content-Length: 5\r\n", b"hel")])
def test_half_a_request_and_an_eof_get_nothing(data: bytes) -> None:
    http = feed(data)
    http.receive_eof()
    chunk = http.take(100)
    assert (chunk.data, chunk.end) == (b"", True)
    http.receive_eof()
    assert not http.has_output


def test_whole_requests_are_answered_after_an_eof() -> None:
    http = feed(GET + GET + b"GET /half")
    http.receive_eof()
    http.send_response(OK)
    http.send_response(OK)
    chunk = http.take(10_000)
    assert chunk.data.count(b"HTTP/1.1 200") == 2
    assert chunk.end


def test_an_upgrade_after_an_eof_is_over_at_once() -> None:
    http = feed(UPGRADE + b"\r\n")
    http.receive_eof()
    http.send_response(Response(101))
    http.receive_early()
    assert http.events[-1] == WebSocketClosed()
    assert http.take(10_000).end


@pytest.mark.parametrize("data", [b"", b"GET", post(b"Content-Length: 5\r\n", b"hel")])
def test_a_slow_request_can_be_refused(data: bytes) -> None:
    http = feed(data)
    http.refuse(408, "late")
    chunk = http.take(1_000)
    assert chunk.data.startswith(b"HTTP/1.1 408")
    assert chunk.data.endswith(b"\r\n\r\nlate")
    assert chunk.end


def test_a_connection_can_be_ended_without_an_answer() -> None:
    http = connection()
    http.end()
    chunk = http.take(10)
    assert (chunk.data, chunk.end) == (b"", True)


# -- the upgrade -----------------------------------------------------------------------------------


def test_the_handshake_is_answered_as_the_rfc_says() -> None:
    http = feed(UPGRADE.replace(b"MDEyMzQ1Njc4OWFiY2RlZg==", b"dGhlIHNhbXBsZSBub25jZQ==") + b"\r\n")
    assert request(http).upgrade
    http.send_response(Response(101))
    answer = sent(http).lower()
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in answer
    assert b"extensions" not in answer  # permessage-deflate is never negotiated


@pytest.mark.parametrize(
    "extra",
    [
        b"Connection: keep-alive\r\n",
        b"Content-Length: 0\r\n",
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=abc\r\n",
        b"Sec-WebSocket-Extensions: " + b"a, " * 100 + b"\r\n",
        b"Sec-WebSocket-Extensions: \xff\xfe\r\n",
        b"Sec-WebSocket-Protocol: \xe9\r\n",
        b"Sec-WebSocket-Protocol: constructor, " + b"a" * 500 + b"\r\n",
        b"Connection: \xff\r\n",
        b"Expect: 100-continue\r\n",
    ],
)
def test_a_handshake_with_odd_but_harmless_headers_is_accepted(extra: bytes) -> None:
    http = feed(UPGRADE + extra + b"\r\n")
    assert request(http).upgrade
    http.send_response(Response(101))
    assert sent(http).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"HTTP/1.1", b"HTTP/1.0", 400),
        (b"GET", b"POST", 400),
        (b"Upgrade: websocket", b"Upgrade: xwebsocketx", 400),
        (b"Upgrade: websocket", b"Upgrade: websocket, h2c", 400),
        (b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: websocket", 400),
        (b"Connection: Upgrade", b"Connection: close", 400),
        (b"Connection: Upgrade", b"Connection: \xff", 400),
        (b"Host: x", b"Host: \xff", 400),
        (b"Version: 13", b"Version: 8", 426),
        (b"Version: 13", b"Version: \xff", 426),
        (b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 13", 400),
        (b"Key: MDEyMzQ1Njc4OWFiY2RlZg==", b"Key: x", 400),
        (b"Key: MDEyMzQ1Njc4OWFiY2RlZg==", b"Key: MDEyMzQ1Njc4OWFiY2Rl", 400),
        (b"Key: MDEyMzQ1Njc4OWFiY2RlZg==", b"Key: \xff\xfe", 400),
        (b"Key: MDEyMzQ1Njc4OWFiY2RlZg==", b"Key:", 400),
        (b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n", b"", 400),
        (b"Host: x", b"Host: x\r\nContent-Length: 3", 400),
        (b"Host: x", b"Host: x\r\nTransfer-Encoding: chunked", 400),
    ],
)
def test_a_bad_handshake_is_refused(old: bytes, new: bytes, status: int) -> None:
    http = feed(UPGRADE.replace(old, new) + b"\r\n")
    assert not http.events
    answer = sent(http)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"sec-websocket-version: 13" in answer.lower()) == (status == 426)


def test_an_upgrade_to_something_else_is_a_plain_request() -> None:
    http = feed(get(b"Upgrade: h2c\r\nConnection: Upgrade\r\n"))
    assert not request(http).upgrade
    http.send_response(OK)
    assert http.idle


def test_an_upgrade_may_be_answered_with_a_plain_answer() -> None:
    http = feed(UPGRADE + b"\r\n")
    http.send_response(Response(404))
    http.receive_data(GET)
    assert len(http.events) == 2


def test_frames_that_come_with_the_handshake_are_delivered_in_order() -> None:
    frames = masked_frame(b"one") + masked_frame(b"two", 2)
    http = feed(UPGRADE + b"\r\n" + frames[:-1])
    http.receive_data(frames[-1:])
    http.events.clear()
    http.send_response(Response(101))
    http.receive_data(masked_frame(b"three"))
    assert not http.events
    http.receive_early()
    http.receive_early()
    http.receive_data(masked_frame(b"four"))
    messages = [event.message for event in http.events if isinstance(event, MessageReceived)]
    assert messages == [b"one", b"two", b"three", b"four"]


# -- the WebSocket ---------------------------------------------------------------------------------


def test_messages_go_out_as_frames_and_the_close_is_the_last() -> None:
    http = upgraded()
    http.send_messages([b"a", b"b"])
    http.receive_data(masked_frame(b"", 9))
    http.close_websocket(1000)
    assert http.close_sent
    http.close_websocket(1001)
    http.send_messages([b"late"])
    http.receive_data(masked_frame(b"", 9))
    assert sent(http) == b"\x81\x01a\x81\x01b\x88\x02\x03\xe8"
    http.receive_data(masked_frame(b"\x03\xe8", 8) + b"ignored")
    assert list(http.events)[-1:] == [WebSocketClosed()]
    chunk = http.take(100)
    assert (chunk.data, chunk.end) == (b"", True)
    http.receive_data(b"\xff" * 100)
    assert not http.has_output


def test_nothing_is_sent_before_there_is_a_websocket() -> None:
    http = feed(GET)
    http.send_messages([b"a"])
    http.close_websocket(1000)
    assert not http.has_output
    assert not http.close_sent


def test_a_ping_flood_costs_a_few_pongs() -> None:
    http = upgraded()
    for number in range(1_000):
        http.receive_data(masked_frame(b"%d" % number, 9))
    assert http.has_output
    assert http.out_size == 0
    assert sent(http) == b"".join(b"\x8a\x03%d" % number for number in range(984, 1_000))
    assert not http.has_output


def test_a_pong_waits_behind_what_the_socket_has_no_room_for() -> None:
    http = upgraded()
    http.send_messages([b"x" * 10])
    assert http.take(4).data == b"\x81\x0axx"
    http.send_messages([b"y"])
    http.receive_data(masked_frame(b"p", 9))
    assert http.take(100).data == b"x" * 8 + b"\x8a\x01p" + b"\x81\x01y"


def test_a_pong_goes_before_the_messages_that_came_later() -> None:
    http = upgraded()
    http.receive_data(masked_frame(b"a", fin=False) + masked_frame(b"p", 9) + masked_frame(b"b", 0))
    http.send_messages([b"ab"])
    assert sent(http) == b"\x8a\x01p" + b"\x81\x02ab"


def test_the_close_frame_is_not_lost_where_the_room_ends() -> None:
    http = upgraded()
    http.send_messages([b"abc"])
    http.receive_data(masked_frame(b"\x03\xe8", 8))
    chunk = http.take(5)
    assert (chunk.data, chunk.end) == (b"\x81\x03abc", False)
    chunk = http.take(5)
    assert (chunk.data, chunk.end) == (b"\x88\x02\x03\xe8", True)


def test_a_violation_ends_the_connection_behind_a_close_frame() -> None:
    http = upgraded(b"")
    http.receive_data(masked_frame(b"ok") + b"\x81\x00" + masked_frame(b"late"))
    events = [event for event in http.events if not isinstance(event, Request)]
    assert events == [MessageReceived(b"ok"), WebSocketClosed()]
    chunk = http.take(100)
    assert (chunk.data, chunk.end) == (b"\x88\x02\x03\xea", True)
