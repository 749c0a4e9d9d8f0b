"""The Engine.IO server, from bytes to bytes, in a virtual world.

Rules of this file: what stock clients see is what is looked at; `echo` answers each Socket.IO event
with itself, so that messages can be counted on their way in and out.
"""

import gc

import msgspec
import pytest
from core.clients import (
    ORIGIN,
    PATH,
    POLLING,
    WEBSOCKET,
    Polling,
    close_code,
    join,
    open_websocket,
    plain_world,
    sid_of,
)
from tokenwire.config import Config
from tokenwire.endpoint import Endpoint
from tokenwire.engineio.session import EngineSession
from tokenwire.outputs import Event, Notice
from tokenwire.socketio.client import Client
from tokenwire.socketio.socket import Socket
from tokenwire.testing import Answer, SeededIds, Wire, World
from tokenwire.testing.world import masked_frame
from tokenwire.types import ConnId, Millis, Peer, Request

FAST = {"heartbeat_interval": 300, "heartbeat_timeout": 200}


def ask(
    world: World,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    answer = world.connect().request(method, target, headers, body)
    assert answer is not None
    return answer


def error(answer: Answer) -> tuple[int, object]:
    """Return the status and the code of an error answer."""
    content = msgspec.json.decode(answer.body, type=dict[str, object])
    assert set(content) == {"code", "message"}
    assert answer.headers["content-type"] == "application/json"
    return answer.status, content["code"]


def kept() -> int:
    """Return how many sessions, clients and sockets there are in memory."""
    gc.collect()
    kinds = (EngineSession, Client, Socket)
    return sum(isinstance(item, kinds) for item in gc.get_objects())


def reasons(world: World) -> list[object]:
    """Return the reasons of the sessions' ends."""
    return [dict(n.fields)["reason"] for n in world.notices if n.event == "session_closed"]


def body(wire: Wire) -> bytes | None:
    answer = wire.answer()
    return None if answer is None else answer.body


# -- handshakes and errors -------------------------------------------------------------------------


def test_a_handshake_over_polling() -> None:
    answer = ask(plain_world(), "GET", POLLING)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert answer.headers["cache-control"] == "no-store"
    opening = msgspec.json.decode(answer.body[1:], type=dict[str, object])
    assert opening == {
        "sid": opening["sid"],
        "upgrades": ["websocket"],
        "pingInterval": 30_000,
        "pingTimeout": 20_000,
        "maxPayload": 1_000_000,
    }


def test_a_handshake_over_websocket() -> None:
    wire = plain_world().connect()
    assert wire.upgrade(WEBSOCKET).status == 101
    (opening,) = wire.texts()
    assert msgspec.json.decode(opening[1:], type=dict[str, object])["upgrades"] == []


def test_each_session_has_another_id_of_120_bits() -> None:
    world = plain_world()
    ids = {Polling(world).sid for _ in range(50)}
    assert len(ids) == 50
    assert {len(sid) for sid in ids} == {20}


TRANSPORTS = ("", "transport=", "transport=flash", "transport=__proto__", "transport=Polling")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_unknown_transport_has_code_0(transport: str) -> None:
    world = plain_world()
    sid = Polling(world).sid
    for rest in ("", "&EIO=4", f"&EIO=4&sid={sid}"):
        for method in ("GET", "POST", "HEAD", "PUT"):
            answer = ask(world, method, f"/socket.io/?{transport}{rest}")
            assert answer.status == 400
            if method != "HEAD":
                assert error(answer) == (400, 0)


@pytest.mark.parametrize(
    ("method", "query", "expected"),
    [
        ("GET", "EIO=4&transport=polling&sid=unknown", (400, 1)),
        ("POST", "EIO=4&transport=polling&sid=", (400, 1)),
        ("GET", "EIO=4&transport=websocket&sid=__proto__", (400, 1)),
        ("POST", "EIO=4&transport=polling", (400, 2)),
        ("PUT", "EIO=4&transport=polling", (400, 2)),
        ("GET", "EIO=4&transport=websocket", (400, 3)),
        ("GET", "EIO=4&transport=polling&transport=polling", (400, 3)),
        ("GET", "EIO=4&transport=polling&sid=%ff", (400, 1)),
        ("GET", "EIO=4&EIO=4&transport=polling", (400, 3)),
        ("POST", "EIO=4&transport=polling&sid=a&s%69d=a", (400, 3)),
        (
            "GET",
            "EIO=4&transport=polling&" + "&".join("abcdefghijklmnopqrstuvwxyzABCDEFG"),
            (400, 3),
        ),
        ("GET", "transport=polling", (400, 5)),
        ("GET", "EIO=3&transport=polling", (400, 5)),
        ("GET", "EIO=&transport=polling", (400, 5)),
        ("GET", "EIO=4.0&transport=polling", (400, 5)),
    ],
)
def test_a_bad_request_has_its_code(method: str, query: str, expected: tuple[int, int]) -> None:
    assert error(ask(plain_world(), method, f"/socket.io/?{query}")) == expected


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (PATH + "flash", "Transport unknown"),
        (POLLING, "Bad request"),
        (WEBSOCKET + "&sid=unknown", "Session ID unknown"),
        (WEBSOCKET.replace("EIO=4", "EIO=3"), "Unsupported protocol version"),
    ],
)
def test_before_the_101_errors_are_plain_text(target: str, text: str) -> None:
    answer = plain_world().connect().upgrade(target)
    assert (answer.status, answer.body.decode()) == (400, text)
    assert answer.headers["content-type"] == "text/plain"


def test_a_request_of_a_session_must_fit_it() -> None:
    world = plain_world()
    client = Polling(world)
    assert error(ask(world, "GET", client.ws_target)) == (400, 3)
    assert error(ask(world, "GET", client.target.replace("EIO=4", "EIO=3"))) == (400, 3)
    assert world.connect().upgrade(client.target).status == 400
    assert world.connect().upgrade(client.ws_target.replace("EIO=4", "EIO=3")).status == 400
    answer = ask(world, "PUT", client.target)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST, OPTIONS")
    assert ask(world, "HEAD", client.target).status == 405
    without_version = client.target.replace("EIO=4&", "")
    assert error(ask(world, "POST", without_version, body=b"3")) == (400, 3)
    assert client.post(b"3").status == 200


def test_a_pages_own_fields_are_not_looked_at() -> None:
    assert ask(plain_world(), "GET", POLLING + "&a=1&a=2&b=%ff&&c").status == 200


def test_no_more_sessions_than_the_limit() -> None:
    world = plain_world(max_sessions=1)
    client = Polling(world)
    answer = ask(world, "GET", POLLING)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert world.connect().upgrade(WEBSOCKET).status == 503
    client.post(b"1")
    assert ask(world, "GET", POLLING).status == 200


def test_a_session_that_makes_room_ends_at_once_and_is_told_if_it_can_be() -> None:
    world = plain_world(max_sessions=10)  # one of which may have joined nothing
    unheard = Polling(world)
    heard = Polling(world)
    assert error(ask(world, "GET", unheard.target)) == (400, 1)
    waiting = heard.hanging()
    wire = open_websocket(world)
    assert waiting.received.endswith(b"\r\n\r\n1")
    assert error(ask(world, "GET", heard.target)) == (400, 1)
    Polling(world)
    assert close_code(wire) == 1000


def handshake(world: World, host: str | None, headers: dict[str, str] | None = None) -> Answer:
    """Ask for a session from an address."""
    answer = world.connect(Peer(host, 1)).request("GET", POLLING, headers)
    assert answer is not None
    return answer


def test_so_many_sessions_of_one_address() -> None:
    world = plain_world(max_sessions_per_address=2)
    first, second = (handshake(world, "2001:db8::1"), handshake(world, "2001:db8::2"))
    assert (first.status, second.status) == (200, 200)
    third = handshake(world, "2001:db8::3", {"Origin": ORIGIN})
    assert (third.status, third.headers["retry-after"], third.body) == (503, "1", b"")
    assert third.headers["access-control-allow-origin"] == ORIGIN
    assert world.connect(Peer("2001:db8::3")).upgrade(WEBSOCKET).status == 503
    assert handshake(world, "2001:db8:0:1::1").status == 200
    for host in ("127.0.0.1", "::1", None):
        assert [handshake(world, host).status for _ in range(5)] == [200] * 5
    session = f"{POLLING}&sid={sid_of(first.body)}"
    answer = world.connect(Peer("2001:db8::9")).request("POST", session, body=b"1")
    assert answer is not None
    assert answer.body == b"ok"
    assert handshake(world, "2001:db8::1").status == 200  # it counts for who opened it


def test_a_session_counts_until_it_is_gone() -> None:
    world = plain_world(max_sessions_per_address=1, heartbeat_interval=300, heartbeat_timeout=200)
    assert handshake(world, "192.0.2.1").status == 200
    world.advance(499)
    assert handshake(world, "192.0.2.1").status == 503
    world.advance(1)
    wire = open_websocket(world, peer=Peer("192.0.2.1"))
    assert handshake(world, "192.0.2.1").status == 503
    wire.drop()
    assert handshake(world, "192.0.2.1").status == 200


def test_so_many_handshakes_of_one_address() -> None:
    world = plain_world(handshakes_per_second=1, handshake_burst=2)
    statuses = [handshake(world, "192.0.2.1").status for _ in range(3)]
    assert statuses == [200, 200, 503]
    assert handshake(world, "192.0.2.2").status == 200
    world.advance(1_000)
    assert [handshake(world, "192.0.2.1").status for _ in range(2)] == [200, 503]
    assert [notice.fields for notice in world.notices if notice.event == "handshake_refused"] == [
        (("limit", "handshakes of one address"),)
    ] * 2
    assert not any("192" in str(notice) for notice in world.notices)


def test_a_wrong_handshake_does_not_count() -> None:
    world = plain_world(handshake_burst=1)
    for target in (POLLING.replace("EIO=4", "EIO=3"), "/socket.io/?EIO=4", WEBSOCKET):
        answer = world.connect(Peer("192.0.2.1")).request("GET", target)
        assert answer is not None
        assert answer.status == 400
    assert handshake(world, "192.0.2.1").status == 200


def test_behind_a_trusted_proxy_each_client_counts_for_itself() -> None:
    world = plain_world(max_sessions_per_address=1, trusted_proxies=("127.0.0.1",))
    for host in ("192.0.2.1", "192.0.2.2"):
        fields = {"X-Forwarded-For": f"198.51.100.1, {host}"}
        assert [handshake(world, "127.0.0.1", fields).status for _ in range(2)] == [200, 503]
        assert handshake(world, "198.51.100.7", fields).status == (
            200 if host == "192.0.2.1" else 503
        )


# -- origins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
def test_a_foreign_page_gets_nothing(origin: str) -> None:
    world = plain_world()
    client = Polling(world)
    before = kept()
    headers = {"Origin": origin}
    for method, target in (("GET", POLLING), ("GET", client.target), ("POST", client.target)):
        answer = ask(world, method, target, headers)
        assert error(answer) == (403, 4)
        assert "access-control-allow-origin" not in answer.headers
    for target in (WEBSOCKET, client.ws_target):
        answer = world.connect().upgrade(target, headers)
        assert (answer.status, answer.body) == (403, b"Forbidden")
    assert ask(world, "OPTIONS", POLLING, headers).status == 403
    assert kept() == before
    notice = Notice("warning", "origin_refused", (("origin", origin),))
    assert world.notices.count(notice) == 6


def test_a_listed_page_may_read_every_answer() -> None:
    world = plain_world()
    client = Polling(world, {"Origin": ORIGIN})
    waiting = client.hanging()
    answers = [client.post(b"40"), waiting.answer(), ask(world, "GET", PATH, {"Origin": ORIGIN})]
    answers.append(world.connect().upgrade(WEBSOCKET + "&sid=x", {"Origin": ORIGIN}))
    for answer in answers:
        assert answer is not None
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["vary"] == "Origin"
    assert world.connect().upgrade(WEBSOCKET, {"Origin": ORIGIN}).status == 101


def test_a_polls_answer_is_for_the_page_that_polls() -> None:
    world = plain_world(cors_origins=(ORIGIN, "http://other"))
    client = Polling(world)
    client.headers = {"Origin": "http://other"}
    waiting = client.hanging()
    client.post(b"40")
    answer = waiting.answer()
    assert answer is not None
    assert answer.headers["access-control-allow-origin"] == "http://other"


def test_a_preflight_touches_no_session() -> None:
    world = plain_world(**FAST)
    client = Polling(world)
    headers = {"Origin": ORIGIN, "Access-Control-Request-Headers": "content-type"}
    for target in (client.target, PATH + "x&sid=y", "/socket.io/"):
        answer = ask(world, "OPTIONS", target, headers)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-headers"] == "content-type"
    assert client.post(b"3").status == 200


# -- polling ---------------------------------------------------------------------------------------


def echo(world: World) -> None:
    """Answer each event with itself."""
    while world.program:
        output = world.program.popleft()
        if isinstance(output, Event):
            world.server.emit(output.socket, output.name, list(output.args), world.now)
    world.pump()


def test_a_post_is_answered_with_ok() -> None:
    answer = Polling(plain_world()).post(b"40")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["cache-control"] == "no-store"


def test_a_poll_waits_until_there_is_something() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    waiting = client.hanging()
    assert waiting.answer() is None
    client.post(b'42["a",1]')
    echo(world)
    assert body(waiting) == b'42["a",1]'
    client.post(b'42["b"]')
    echo(world)
    assert client.poll() == Answer(
        200,
        {
            "content-type": "text/plain; charset=UTF-8",
            "cache-control": "no-store",
            "vary": "Origin",
            "content-length": "7",
        },
        b'42["b"]',
    )


def test_messages_that_wait_share_an_answer() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    client.post(b'42["a"]\x1e42["b"]')
    echo(world)
    assert body(client.hanging()) == b'42["a"]\x1e42["b"]'


def test_binary_goes_as_base64_both_ways() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    client.post(b'451-["a",{"_placeholder":true,"num":0}]\x1ebAQIDBA==')
    echo(world)
    assert body(client.hanging()) == b'451-["a",{"_placeholder":true,"num":0}]\x1ebAQIDBA=='


def test_polls_and_posts_may_share_a_connection() -> None:
    world = plain_world()
    client = Polling(world)
    wire = world.connect()
    for _ in range(3):
        answer = wire.request("POST", client.target, body=b"3")
        assert answer is not None
        assert answer.status == 200
    assert wire.open


def test_a_second_poll_ends_the_session() -> None:
    world = plain_world()
    client = Polling(world)
    first, second = client.hanging(), client.hanging()
    assert body(first) == b"1"
    answer = second.answer()
    assert answer is not None
    assert error(answer) == (400, 3)
    assert error(ask(world, "GET", client.target)) == (400, 1)
    assert reasons(world) == ["transport error"]


@pytest.mark.parametrize("how", [Wire.drop, Wire.eof])
def test_an_aborted_poll_ends_the_session(how: object) -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    assert callable(how)
    how(waiting)
    assert error(ask(world, "POST", client.target, body=b"3")) == (400, 1)
    assert reasons(world) == ["transport close"]


def half_post(client: Polling, headers: str = "") -> Wire:
    """Send a POST without the end of its body."""
    wire = client.world.connect()
    wire.send(
        f"POST {client.target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n{headers}\r\n4".encode()
    )
    return wire


@pytest.mark.parametrize("whole", [False, True])
def test_a_post_inside_another_ends_the_session(whole: bool) -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    first = half_post(client)
    second = half_post(client)
    if whole:
        assert error(client.post(b"3")) == (400, 3)
    else:
        second.send(b"0")
        answer = second.answer()
        assert answer is not None
        assert error(answer) == (400, 3)
    assert body(waiting) == b"1"
    first.send(b"0")
    answer = first.answer()
    assert answer is not None
    assert error(answer) == (400, 1)
    assert reasons(world) == ["transport error"]


@pytest.mark.parametrize("how", ["whole", "drop", "timeout", "too large"])
def test_a_post_after_another_is_taken(how: str) -> None:
    world = plain_world(heartbeat_interval=1_000_000, max_payload=10)
    client = Polling(world)
    first = half_post(client)
    match how:
        case "whole":
            first.send(b"0")
        case "drop":
            first.drop()
        case "timeout":
            world.advance(30_000)
        case _:
            first.send(b"0")
            first.send(
                f"POST {client.target} HTTP/1.1\r\nHost: x\r\n".encode()
                + b"Transfer-Encoding: chunked\r\n\r\n"
            )
            first.send(b"b\r\n")
            assert first.open
    assert client.post(b"3").status == 200


def test_requests_that_are_no_posts_of_the_session_do_not_count() -> None:
    world = plain_world()
    client = Polling(world)
    half_post(client, "Origin: https://evil.example\r\n")
    for target in (client.target + "&sid=x", POLLING + "&sid=none", "/elsewhere"):
        world.connect().send(
            f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n4".encode()
        )
    world.connect().send(
        f"GET {client.target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n4".encode()
    )
    assert client.post(b"3").status == 200


def test_a_lost_connection_without_a_poll_ends_nothing() -> None:
    world = plain_world()
    client = Polling(world)
    wire = world.connect()
    wire.request("POST", client.target, body=b"3")
    wire.eof()
    assert wire.ended
    assert client.post(b"3").status == 200


def test_a_close_by_post_answers_the_poll_with_a_noop() -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    assert client.post(b"1").body == b"ok"
    assert body(waiting) == b"6"
    assert error(ask(world, "GET", client.target)) == (400, 1)
    assert error(ask(world, "POST", client.target, body=b"3")) == (400, 1)


def test_nothing_after_a_close_packet_is_read() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    assert client.post(b'1\x1e42["late"]').body == b"ok"
    assert not any(isinstance(output, Event) for output in world.program)


BAD_BODIES = [
    b"",
    b"abc",
    b"0",
    b"2",
    b"2probe",
    b"7",
    b"4",
    b"4\xff",
    b"b====",
    b"3\x1e",
    b"\x1e".join([b"3"] * 16_385),
    b"47",
    b"bAQIDBA==",
]


@pytest.mark.parametrize("bad", BAD_BODIES)
@pytest.mark.parametrize("polled", [False, True])
def test_an_invalid_packet_ends_the_session(bad: bytes, polled: bool) -> None:
    world = plain_world()
    client = Polling(world)
    other = Polling(world)
    waiting = client.hanging() if polled else None
    assert error(client.post(bad)) == (400, 3)
    if waiting is not None:
        assert body(waiting) == b"1"
    assert error(ask(world, "GET", client.target)) == (400, 1)
    assert reasons(world) == ["parse error"]
    assert other.post(b"3").status == 200


@pytest.mark.parametrize("kind", ["application/octet-stream", "Application/Octet-Stream; a=b"])
def test_a_binary_post_ends_the_session(kind: str) -> None:
    world = plain_world()
    client = Polling(world)
    assert error(client.post(b"3", {"Content-Type": kind})) == (400, 3)
    assert error(ask(world, "GET", client.target)) == (400, 1)


def test_exactly_the_payload_limit_is_accepted_and_the_session_survives_one_more() -> None:
    world = plain_world(max_payload=200)
    client = Polling(world)
    client.join()
    fits = b'42["a","' + b"x" * 190 + b'"]'
    assert len(fits) == 200
    assert client.post(fits).body == b"ok"
    answer = client.post(fits + b" ")
    assert (answer.status, answer.body) == (413, b"")
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(fits), fits)
    wire = world.connect()
    wire.send(
        f"POST {client.target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + chunked
    )
    assert body(wire) == b"ok"
    assert sum(isinstance(output, Event) for output in world.program) == 2


# -- the upgrade -----------------------------------------------------------------------------------


def test_an_upgrade_answers_every_poll_until_it_is_done() -> None:
    world = plain_world()
    client = Polling(world)
    client.join()
    first = client.hanging()
    wire = client.probe()
    assert first.answer() is None
    wire.send_text("2probe")
    assert wire.texts() == ["3probe"]
    assert body(first) == b"6"
    for _ in range(3):
        assert body(client.hanging()) == b"6"
    assert client.post(b'42["by post"]').body == b"ok"
    wire.send_text("5")
    assert error(ask(world, "GET", client.target)) == (400, 3)
    assert error(ask(world, "POST", client.target, body=b"3")) == (400, 3)
    wire.send_text('42["by websocket"]')
    echo(world)
    assert wire.texts() == ['42["by post"]', '42["by websocket"]']


def test_what_waits_moves_to_the_websocket() -> None:
    world = plain_world()
    client = Polling(world)
    socket = client.join()
    wire = client.probe()
    world.server.emit(socket, "one", [], world.now)
    wire.send_text("2probe")
    world.server.emit(socket, "two", [b"\x01"], world.now)
    assert (
        body(client.hanging()) == b'42["one"]\x1e451-["two",{"_placeholder":true,"num":0}]\x1ebAQ=='
    )
    world.server.emit(socket, "three", [b"\x02"], world.now)
    wire.send_text("5")
    frames = [(frame.opcode, frame.payload) for frame in wire.frames()]
    assert frames == [
        (1, b"3probe"),
        (1, b'451-["three",{"_placeholder":true,"num":0}]'),
        (2, b"\x02"),
    ]


def test_a_poll_that_waits_at_the_end_of_an_upgrade_is_answered() -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    wire = client.probe()
    wire.send_text("5")  # without a probe, as Node takes it
    assert body(waiting) == b"6"
    wire.send_text("40")
    assert wire.texts()[0].startswith('40{"sid"')


@pytest.mark.parametrize("payload", [b"4hello", b"3", b"", b"2", b"5probe", b"40"])
def test_another_first_packet_closes_the_websocket_alone(payload: bytes) -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.probe()
    wire.send_frame(payload)
    assert close_code(wire) == 1000
    assert client.post(b"40").status == 200
    assert client.upgrade().open


@pytest.mark.parametrize("payload", [b"2probe", b"5"])
def test_a_probe_is_text(payload: bytes) -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.probe()
    wire.send_frame(payload, 2)
    assert close_code(wire) == 1000
    assert client.poll() is None


@pytest.mark.parametrize("probed", [False, True])
@pytest.mark.parametrize("how", ["drop", "eof", "close", "violation", "timeout"])
def test_an_abandoned_upgrade_falls_back_to_polling(probed: bool, how: str) -> None:
    world = plain_world(heartbeat_interval=1_000_000)
    client = Polling(world)
    client.join()
    wire = client.probe()
    if probed:
        wire.send_text("2probe")
    match how:
        case "drop":
            wire.drop()
        case "eof":
            wire.eof()
        case "close":
            wire.send_frame(b"\x03\xe8", 8)
        case "violation":
            wire.send(b"\xff\xff")
        case _:
            world.advance(9_999)
            assert close_code(wire) is None
            world.advance(1)
            assert close_code(wire) == 1000
    waiting = client.hanging()
    assert waiting.answer() is None
    client.post(b'42["still there"]')
    echo(world)
    assert body(waiting) == b'42["still there"]'
    again = client.upgrade()
    again.send_text('42["again"]')
    echo(world)
    assert again.texts() == ['42["again"]']


@pytest.mark.parametrize("stage", ["opened", "probed", "upgraded"])
def test_a_second_websocket_completes_its_handshake_and_is_closed(stage: str) -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.probe()
    if stage != "opened":
        wire.send_text("2probe")
    if stage == "upgraded":
        wire.send_text("5")
    second = world.connect()
    assert second.upgrade(client.ws_target).status == 101
    assert close_code(second) == 1000
    second.send_text("2probe")
    second.send_frame(b"\x03\xe8", 8)
    assert second.ended
    if stage != "upgraded":
        wire.send_text("2probe")
        wire.send_text("5")
    wire.send_text("40")
    assert any(text.startswith("40{") for text in wire.texts())


def test_a_closed_session_has_no_upgrade_left() -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.probe()
    wire.send_text("2probe")
    client.post(b"1")
    assert close_code(wire) == 1000
    assert world.connect().upgrade(client.ws_target).status == 400


FRAMES = masked_frame(b"2probe") + masked_frame(b"5") + masked_frame(b"3")
UPGRADED_AT = len(masked_frame(b"2probe") + masked_frame(b"5"))


@pytest.mark.parametrize("cut", range(len(FRAMES) + 1))
def test_no_packet_is_lost_or_doubled_wherever_the_upgrade_is_cut(cut: int) -> None:
    world = plain_world(heartbeat_interval=1_000_000)
    client = Polling(world)
    socket = client.join()
    wire = client.probe()
    poll: Wire | None = None
    got: list[bytes] = []

    def read_poll() -> None:
        nonlocal poll
        answer = None if poll is None else poll.answer()
        if answer is not None and answer.status == 200:
            got.extend(answer.body.split(b"\x1e"))
            poll = None

    for index in range(cut):
        if poll is None and index % 5 == 0:
            poll = client.hanging()
        world.server.emit(socket, index, [], world.now)
        wire.send(FRAMES[index : index + 1])
        read_poll()
    if cut >= UPGRADED_AT:
        got.extend(text.encode() for text in wire.texts())
    else:
        wire.drop()
        poll = poll or client.hanging()
        read_poll()
    messages = [packet for packet in got if packet.startswith(b"42")]
    assert messages == [b"42[%d]" % index for index in range(cut)]


# -- the heartbeat ---------------------------------------------------------------------------------


def test_pings_go_on_while_pongs_come() -> None:
    world = plain_world(**FAST)
    wire = open_websocket(world)
    for _ in range(5):
        world.advance(299)
        assert wire.texts() == []
        world.advance(1)
        assert wire.texts() == ["2"]
        wire.send_text("3")
    assert wire.open


def test_a_websocket_that_does_not_pong_is_closed() -> None:
    world = plain_world(**FAST)
    wire = open_websocket(world)
    world.advance(499)
    assert [frame.opcode for frame in wire.frames()] == [1]
    world.advance(1)
    assert close_code(wire) == 1000
    assert reasons(world) == ["ping timeout"]
    world.advance(5_000)
    assert wire.aborted  # it does not answer the close either


def test_a_polling_client_that_does_not_pong_is_told_in_its_poll() -> None:
    world = plain_world(**FAST)
    client = Polling(world)
    waiting = client.hanging()
    world.advance(300)
    assert body(waiting) == b"2"
    waiting = client.hanging()
    world.advance(200)
    assert body(waiting) == b"1"
    assert error(ask(world, "GET", client.target)) == (400, 1)


def test_a_polling_client_that_is_gone_leaves_nothing() -> None:
    world = plain_world(**FAST)
    client = Polling(world)
    world.advance(500)
    assert error(ask(world, "GET", client.target)) == (400, 1)
    assert reasons(world) == ["ping timeout"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("late", "status"), [(199, 200), (200, 400)])
def test_a_request_finds_the_ping_timeout_before_its_timer(
    method: str, late: int, status: int
) -> None:
    world = plain_world(**FAST)
    client = Polling(world)
    world.advance(300)
    world.now = Millis(world.now + late)  # the timer's call is late
    assert ask(world, method, client.target, body=b"3").status == status
    assert reasons(world) == ([] if status == 200 else ["ping timeout"])


def test_pongs_that_nobody_asked_for_do_nothing() -> None:
    world = plain_world(**FAST)
    wire = open_websocket(world)
    for _ in range(100):
        wire.send_text("3")
        world.advance(2)
    world.advance(100)
    assert wire.texts() == ["2"]


def test_a_websocket_that_still_drains_is_alive() -> None:
    world = plain_world(**FAST)
    wire = open_websocket(world)
    socket = join(wire)
    wire.room = 10
    world.server.emit(socket, "big", ["x" * 5_000], world.now)
    world.pump()
    for _ in range(20):
        world.advance(100)
        wire.unblock(50)
    assert wire.open
    world.advance(600)
    assert reasons(world) == ["ping timeout"]


def test_a_polls_answer_that_still_drains_keeps_its_session() -> None:
    world = plain_world(**FAST)
    client = Polling(world)
    socket = client.join()
    world.server.emit(socket, "big", ["x" * 5_000], world.now)
    world.pump()
    wire = world.connect()
    wire.room = 10
    wire.send(f"GET {client.target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    for _ in range(20):
        world.advance(100)
        wire.unblock(50)
    assert client.post(b"3").status == 200
    world.advance(600)
    assert error(ask(world, "POST", client.target, body=b"3")) == (400, 1)


# -- ends ------------------------------------------------------------------------------------------


def test_a_servers_close_is_heard_by_the_next_poll() -> None:
    world = plain_world()
    client = Polling(world)
    socket = client.join()
    world.server.emit(socket, "bye", [], world.now)
    world.server.disconnect(socket, world.now, close=True)
    world.pump()
    assert error(ask(world, "POST", client.target, body=b"3")) == (400, 3)
    assert body(client.hanging()) == b'42["bye"]\x1e41\x1e1'
    assert error(ask(world, "GET", client.target)) == (400, 1)


def test_a_servers_close_that_nobody_fetches_is_forgotten() -> None:
    world = plain_world()
    client = Polling(world)
    world.server.disconnect(client.join(), world.now, close=True)
    world.advance(5_000)
    assert error(ask(world, "GET", client.target)) == (400, 1)


def test_a_servers_close_answers_the_poll_that_waits() -> None:
    world = plain_world()
    client = Polling(world)
    socket = client.join()
    waiting = client.hanging()
    world.server.disconnect(socket, world.now, close=True)
    world.pump()
    assert body(waiting) == b"41\x1e1"
    assert error(ask(world, "GET", client.target)) == (400, 1)


def test_a_servers_close_ends_a_websocket_behind_what_waits() -> None:
    world = plain_world()
    wire = open_websocket(world)
    socket = join(wire)
    world.server.emit(socket, "bye", [], world.now)
    world.server.disconnect(socket, world.now, close=True)
    world.pump()
    frames = wire.frames()
    assert [frame.payload for frame in frames] == [b'42["bye"]', b"41", b"\x03\xe8"]
    wire.send_text('42["late"]')
    wire.send_frame(b"\x03\xe8", 8)
    assert wire.ended


@pytest.mark.parametrize(
    ("payload", "opcode", "code"),
    [(b"", 1, 1002), (b"2", 1, 1002), (b"4\x7f", 1, 1002), (b"x", 1, 1002), (b"\x01", 2, 1002)],
)
def test_an_invalid_packet_closes_the_websocket(payload: bytes, opcode: int, code: int) -> None:
    world = plain_world()
    wire = open_websocket(world)
    wire.send_frame(payload, opcode)
    assert close_code(wire) == code
    assert reasons(world) == ["parse error"]


def test_a_close_packet_closes_the_websocket() -> None:
    world = plain_world()
    wire = open_websocket(world)
    wire.send_text("1")
    assert close_code(wire) == 1000
    assert reasons(world) == ["transport close"]


def test_a_websocket_message_of_the_limit_passes_and_one_more_is_1009() -> None:
    world = plain_world(max_payload=1_000)
    wire = open_websocket(world)
    join(wire)
    wire.send_text('42["a","' + "x" * 990 + '"]')
    echo(world)
    assert len(wire.frames()) == 1
    wire.send_text('42["a","' + "x" * 991 + '"]')
    assert close_code(wire) == 1009
    assert wire.ended


def open_and_end(world: World, transport: str, how: str) -> None:
    """Open a session with everything that it can hold, and end it."""
    client = Polling(world)
    socket = client.join()
    client.post(b'452-["half",{"_placeholder":true,"num":0}]\x1ebAQ==')
    wire = client.upgrade() if transport == "websocket" else client.hanging()
    if transport == "upgrading":
        client.probe().send_text("2probe")
        wire = client.hanging()
    world.server.emit(socket, "want", [], world.now, want_ack=True)
    world.pump()
    match how:
        case "drop":
            if transport != "websocket":
                wire = client.hanging()
            wire.drop()
        case "client":
            wire.send_text("1") if transport == "websocket" else client.post(b"1")
        case "server":
            world.server.disconnect(socket, world.now, close=True)
            world.pump()
        case "invalid":
            wire.send_text("2") if transport == "websocket" else client.post(b"2")
        case _:
            pass
    world.advance(60_000)


@pytest.mark.parametrize("transport", ["polling", "upgrading", "websocket"])
@pytest.mark.parametrize("how", ["drop", "client", "server", "invalid", "silence"])
def test_nothing_of_a_closed_session_is_kept(transport: str, how: str) -> None:
    before = kept()
    world = plain_world()
    open_and_end(world, transport, how)
    assert kept() == before
    for wire in list(world.wires.values()):
        wire.drop()
    assert world.server.next_timeout() is None


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS", "DELETE", "HEAD"])
@pytest.mark.parametrize("transport", ["polling", "websocket", "__proto__", None])
@pytest.mark.parametrize("sid", ["known", "unknown", None])
@pytest.mark.parametrize("version", ["4", "3", "__proto__", None])
@pytest.mark.parametrize("upgrade", [False, True])
def test_every_request_gets_one_answer(
    method: str, transport: str | None, sid: str | None, version: str | None, upgrade: bool
) -> None:
    world = plain_world()
    known = Polling(world).sid
    fields = {"transport": transport, "sid": known if sid == "known" else sid, "EIO": version}
    query = "&".join(f"{key}={value}" for key, value in fields.items() if value is not None)
    wire = world.connect()
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"} if upgrade else {}
    if upgrade:
        headers |= {
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
        }
    answer = wire.request(method, f"/socket.io/?{query}", headers)
    if answer is None:
        assert (method, transport, sid, upgrade) == ("GET", "polling", "known", False)
        world.advance(30_000)
        answer = wire.answer()
    assert answer is not None
    assert answer.status in (101, 200, 204, 400, 405)
    if answer.status != 101:
        assert wire.received == b""


def test_a_shut_down_server_takes_no_session_and_closes_those_it_has() -> None:
    world = plain_world()
    client = Polling(world)
    waiting = client.hanging()
    wire = open_websocket(world)
    world.server.shut_down(world.now)
    world.pump()
    assert world.stopped
    assert body(waiting) == b"1"
    assert close_code(wire) == 1000
    assert ask(world, "GET", POLLING).status == 503


def test_a_shutdown_spares_who_is_closing_already() -> None:
    world = plain_world()
    client = Polling(world)
    world.server.disconnect(client.join(), world.now, close=True)
    world.server.shut_down(world.now)
    world.pump()
    assert body(client.hanging()) == b"41\x1e1"
    assert reasons(world) == ["forced close"]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_a_client_that_lets_too_much_wait_is_dropped(transport: str) -> None:
    world = plain_world(outbox_bytes=100)
    client = Polling(world)
    socket = client.join()
    wire = client.upgrade() if transport == "websocket" else client.hanging()
    wire.room = 0
    for _ in range(2):
        world.server.emit(socket, "a", ["x" * 80], world.now)
        world.pump()
    assert wire.aborted
    assert reasons(world) == ["slow consumer"]


def test_a_client_that_does_not_poll_is_dropped_too() -> None:
    world = plain_world(outbox_bytes=100)
    client = Polling(world)
    socket = client.join()
    for _ in range(2):
        world.server.emit(socket, "a", ["x" * 80], world.now)
    assert error(ask(world, "GET", client.target)) == (400, 1)
    assert reasons(world) == ["slow consumer"]


def test_a_websocket_that_is_closing_may_be_full() -> None:
    world = plain_world()
    client = Polling(world)
    client.probe()
    second = world.connect()
    second.room = 110
    second.upgrade(client.ws_target)
    assert second.room == 0
    assert close_code(second) is None
    second.unblock()
    assert close_code(second) == 1000


# -- the message door: somebody else's HTTP --------------------------------------------------------

NOW = Millis(1_000)


class Door:
    """An Endpoint with one polling session."""

    def __init__(self) -> None:
        config = Config(ai_namespace=None, max_payload=10)
        self.endpoint = Endpoint(config, ids=SeededIds())
        _, opening = self.ask(Request("GET", "/socket.io/", "EIO=4&transport=polling"))
        self.query = f"EIO=4&transport=polling&sid={sid_of(opening)}"

    def ask(self, request: Request) -> tuple[int, bytes]:
        conn = self.endpoint.connected(Peer(), NOW)
        self.endpoint.receive_request(conn, request, NOW)
        response = self.endpoint.response_to_send(conn, NOW)
        assert response is not None
        return response.status, response.body


def test_the_payload_limit_holds_at_the_message_door() -> None:
    door = Door()
    assert door.ask(Request("POST", "/socket.io/", door.query, body=b"x" * 11)) == (413, b"")
    assert door.ask(Request("POST", "/socket.io/", door.query, body=b"40")) == (200, b"ok")


def test_there_is_no_answer_before_there_is_one() -> None:
    door = Door()
    endpoint = door.endpoint
    assert endpoint.response_to_send(ConnId(99), NOW) is None
    conn = endpoint.connected(Peer(), NOW)
    endpoint.receive_request(conn, Request("GET", "/socket.io/", door.query), NOW)
    assert endpoint.response_to_send(conn, NOW) is None
    endpoint.receive_eof(ConnId(99), NOW)
    endpoint.receive_eof(conn, NOW)
    response = endpoint.response_to_send(conn, NOW)
    assert response is not None
    assert response.body == b"6"


def test_what_comes_late_about_a_websocket_does_nothing() -> None:
    endpoint = Door().endpoint
    out: list[bytes] = []
    endpoint.receive_message(ConnId(99), b"2probe", NOW)
    endpoint.messages_to_send(ConnId(99), out, 100, NOW)
    endpoint.write_blocked(ConnId(99), NOW)
    endpoint.connection_lost(ConnId(99), NOW)
    assert endpoint.close_code(ConnId(99)) is None
    assert out == []


def test_a_websocket_that_takes_nothing_is_dropped_behind_its_close() -> None:
    world = plain_world(close_timeout=1_000)
    wire = open_websocket(world)
    wire.room = 0
    world.advance(30_000)  # a ping that it does not take
    wire.send_text("x")
    world.advance(999)
    assert wire.open
    world.advance(1)
    assert not wire.open


def test_a_second_probe_in_the_same_read_gets_no_second_answer() -> None:
    world = plain_world()
    wire = Polling(world).probe()
    wire.send(masked_frame(b"2probe") * 2)
    assert wire.texts() == ["3probe"]


def test_a_client_of_python_engineio_is_known_by_its_http_library() -> None:
    world = plain_world()
    client = Polling(world, {"User-Agent": "python-requests/2.3"})
    socket = client.join()
    for _ in range(20):
        world.server.emit(socket, "e", [], world.now)
    answer = client.poll()
    assert answer is not None
    assert answer.body.count(b"\x1e") == 15


# -- slow consumers --------------------------------------------------------------------------------


def emit(world: World, socket: str, text: str) -> None:
    world.server.emit(socket, "a", [text], world.now)
    world.pump()


def test_a_websocket_that_takes_nothing_is_dropped_in_time() -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    wire = open_websocket(world)
    socket = join(wire)
    wire.room = 10
    emit(world, socket, "x" * 50)
    world.advance(4_999)
    assert wire.open
    world.advance(1)
    assert wire.aborted
    assert reasons(world) == ["slow consumer"]
    assert world.server.next_timeout() is None


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_who_reads_however_slowly_is_never_cut(transport: str) -> None:
    world = plain_world(slow_consumer_timeout=5_000, write_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    wire = client.upgrade() if transport == "websocket" else client.hanging()
    wire.room = 0
    emit(world, socket, "x" * 100)
    for _ in range(90):  # its heartbeats run late all the time
        world.advance(4_999)
        assert wire.open
        wire.unblock(1)
    wire.unblock()
    if transport == "websocket":
        assert wire.texts()[0] == f'42["a","{"x" * 100}"]'
    else:
        assert body(wire) == f'42["a","{"x" * 100}"]'.encode()
        assert body(client.hanging()) == b"2"
    assert reasons(world) == []


def test_a_poll_whose_answer_is_not_taken_ends_its_session() -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    wire = client.hanging()
    wire.room = 100
    emit(world, socket, "x" * 500)
    assert wire.room == 0
    world.advance(4_999)
    assert wire.open
    world.advance(1)
    assert wire.aborted
    assert reasons(world) == ["slow consumer"]
    assert error(ask(world, "GET", client.target)) == (400, 1)


def test_a_client_that_does_not_poll_is_not_slow() -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    emit(world, socket, "x" * 500)
    world.advance(30_000 + 19_999)
    assert reasons(world) == []
    world.advance(1)
    assert reasons(world) == ["ping timeout"]


@pytest.mark.parametrize("end", ["lost", "another request"])
def test_an_answer_that_is_of_no_concern_any_more_is_not_waited_for(end: str) -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    wire = client.hanging()
    wire.room = 100
    emit(world, socket, "x" * 500)
    if end == "lost":
        wire.drop()
    else:
        wire.send(
            f"POST {client.target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n3".encode()
        )
    world.advance(10_000)
    assert reasons(world) == []
    client.poll()


def test_a_session_that_goes_on_elsewhere_outlives_a_stuck_answer() -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    stuck = client.hanging()
    stuck.room = 100
    emit(world, socket, "x" * 500)
    world.advance(1_000)
    wire = client.upgrade()
    world.advance(3_000)
    emit(world, socket, "on")
    world.advance(4_999)
    assert reasons(world) == []
    world.advance(1)  # nothing was taken anywhere
    assert reasons(world) == ["slow consumer"]
    assert (wire.aborted, stuck.aborted) == (True, True)


def test_a_session_that_is_closing_is_not_slow() -> None:
    world = plain_world(slow_consumer_timeout=1_000)
    wire = open_websocket(world)
    socket = join(wire)
    wire.room = 0
    emit(world, socket, "x")
    world.server.disconnect(socket, world.now, close=True)
    world.pump()
    world.advance(60_000)
    assert reasons(world) == ["forced close"]


def test_a_reader_that_is_stuck_for_longer_than_its_pong_may_take_is_taken_for_dead() -> None:
    world = plain_world(slow_consumer_timeout=60_000, **FAST)
    wire = open_websocket(world)
    wire.room = 0
    world.advance(300 + 200)
    assert reasons(world) == ["ping timeout"]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_who_took_the_last_of_it_is_not_waited_for(transport: str) -> None:
    world = plain_world(slow_consumer_timeout=5_000)
    client = Polling(world)
    socket = client.join()
    wire = client.upgrade() if transport == "websocket" else client.hanging()
    wire.room = 10_000
    emit(world, socket, "x")
    size = 10_000 - wire.room  # of such an event
    wire = wire if transport == "websocket" else client.hanging()
    wire.room = size
    emit(world, socket, "x")
    assert wire.room == 0  # all is in the runtime's hands, and its buffer is full
    world.advance(4_999)
    wire.unblock()  # nothing is left to pull
    world.advance(5_000)
    assert reasons(world) == []
