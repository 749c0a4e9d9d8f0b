"""The byte door: sockets, their timers, and what a runtime is told to do with them."""

import pytest
from core.clients import (
    POLLING,
    Polling,
    close_code,
    join,
    open_websocket,
    plain_world,
    status_of,
)
from tokenwire.config import Config
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import Abort, PauseReading, ResumeReading, WantWrite
from tokenwire.server import Server
from tokenwire.testing import SeededIds
from tokenwire.testing.world import masked_frame
from tokenwire.types import ConnId, Millis, Peer, Response

GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
NOW = Millis(1_000)


def request(target: str, headers: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


HANDSHAKE = request(
    "/socket.io/?EIO=4&transport=websocket",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
)


# -- one answer for each request -------------------------------------------------------------------


def test_two_requests_in_one_read_are_answered_in_order() -> None:
    world = plain_world()
    wire = world.connect()
    wire.send(request(POLLING) + request("/socket.io/?transport=x"))
    assert [status_of(wire), status_of(wire), status_of(wire)] == [200, 400, None]
    assert wire.open


def test_a_request_behind_a_waiting_poll_waits_too() -> None:
    world = plain_world()
    client = Polling(world)
    wire = client.hanging()
    wire.send(request("/socket.io/?transport=x"))
    assert status_of(wire) is None
    client.post(b"40")
    assert [status_of(wire), status_of(wire)] == [200, 400]


def test_the_program_answers_late_and_in_order() -> None:
    world = plain_world()
    wire = world.connect()
    wire.send(GET + GET.replace(b"/x", b"/y"))
    assert [output.request.path for output in world.requests] == ["/x"]
    world.respond(world.requests[0], Response(404))
    assert [output.request.path for output in world.requests] == ["/x", "/y"]
    world.respond(world.requests[1], Response(200, (), b"hi"))
    assert [status_of(wire), status_of(wire)] == [404, 200]


@pytest.mark.parametrize("method", ["HEAD", "PUT", "BREW", "TRACE"])
def test_any_method_reaches_the_program(method: str) -> None:
    world = plain_world()
    wire = world.connect()
    wire.send(GET.replace(b"GET", method.encode()))
    world.respond(world.requests[0], Response(405, (("allow", "GET"),), b"no"))
    answer = wire.answer(head=method == "HEAD")
    assert answer is not None
    assert answer.headers["content-length"] == "2"
    assert wire.received == b""
    assert wire.open


def test_a_half_closed_client_gets_its_answers_and_the_end() -> None:
    world = plain_world()
    wire = world.connect()
    wire.send(GET)
    wire.eof()
    assert wire.open
    world.respond(world.requests[0], Response(200))
    assert status_of(wire) == 200
    assert wire.ended


@pytest.mark.parametrize("sent", [b"", b"GET /"])
def test_a_client_that_goes_without_a_request_gets_nothing(sent: bytes) -> None:
    wire = plain_world().connect()
    if sent:
        wire.send(sent)
    wire.eof()
    assert (wire.received, wire.ended) == (b"", True)


def test_an_empty_read_is_no_end() -> None:
    wire = plain_world().connect()
    wire.send(b"")
    wire.send(request(POLLING))
    assert status_of(wire) == 200


# -- slow peers ------------------------------------------------------------------------------------

SLOW = {
    "header_timeout": 100,
    "body_timeout": 300,
    "keep_alive_timeout": 700,
    "close_timeout": 50,
    "write_timeout": 50,
    "heartbeat_interval": 1_000_000,
}


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_slow_headers_are_cut_off_with_408(sent: bytes) -> None:
    world = plain_world(**SLOW)
    wire = world.connect()
    world.advance(50)
    wire.send(sent)
    world.advance(49)
    assert wire.open
    world.advance(1)
    assert status_of(wire) == 408
    assert wire.ended


def test_headers_that_trickle_gain_no_time() -> None:
    world = plain_world(**SLOW)
    wire = world.connect()
    for byte in GET[:10]:
        wire.send(bytes((byte,)))
        world.advance(10)
    assert status_of(wire) == 408


def test_a_slow_body_is_cut_off_with_408() -> None:
    world = plain_world(**SLOW)
    client = Polling(world)
    wire = world.connect()
    wire.send(f"POST {client.target} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n".encode())
    for _ in range(3):
        world.advance(99)
        wire.send(b"x")
    world.advance(2)
    assert wire.open
    world.advance(1)
    assert status_of(wire) == 408
    assert wire.ended
    assert client.post(b"3").status == 200


def test_an_idle_connection_is_closed_without_a_word() -> None:
    world = plain_world(**SLOW)
    wire = world.connect()
    wire.send(request(POLLING))
    assert status_of(wire) == 200
    world.advance(699)
    assert wire.open
    world.advance(1)
    assert (wire.received, wire.ended) == (b"", True)


def test_the_next_request_has_the_time_of_a_first() -> None:
    world = plain_world(**SLOW)
    wire = world.connect()
    wire.send(request(POLLING))
    assert status_of(wire) == 200
    world.advance(600)
    wire.send(b"GET")
    world.advance(99)
    assert wire.open
    world.advance(1)
    assert status_of(wire) == 408


def test_a_waiting_poll_has_no_timer_of_its_own() -> None:
    world = plain_world(**{**SLOW, "heartbeat_interval": 10_000, "connect_timeout": 1_000_000})
    client = Polling(world)
    wire = client.hanging()
    world.advance(9_999)
    assert wire.open
    assert status_of(wire) is None


def test_who_does_not_read_the_end_is_aborted() -> None:
    world = plain_world(**SLOW)
    wire = world.connect()
    wire.room = 10
    wire.send(request("/socket.io/", "Connection: close\r\n"))
    world.advance(49)
    assert wire.open
    world.advance(1)
    assert wire.aborted


def test_a_refused_body_is_read_to_its_end_or_for_a_while() -> None:
    world = plain_world(**SLOW, max_payload=10)
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n"
    for ending in ("eof", "timeout"):
        wire = world.connect()
        wire.send(head)
        assert status_of(wire) == 413
        assert wire.open
        wire.send(b"x" * 11)
        wire.eof() if ending == "eof" else world.advance(50)
        assert (wire.received, wire.ended) == (b"", True)
    wire = world.connect()
    wire.room = 10
    wire.send(head)
    world.advance(99)
    assert wire.open
    world.advance(1)
    assert wire.aborted


def test_the_layers_below_get_their_timers() -> None:
    world = plain_world(heartbeat_interval=100)
    wire = open_websocket(world)
    world.advance(100)
    assert wire.texts() == ["2"]


@pytest.mark.parametrize("answers", [False, True])
def test_a_close_waits_for_the_peers_close_for_a_while(answers: bool) -> None:
    world = plain_world(**SLOW)
    wire = open_websocket(world)
    world.server.disconnect(join(wire), world.now, close=True)
    world.pump()
    assert close_code(wire) == 1000
    assert wire.open
    if answers:
        wire.send_frame(b"\x03\xe8", 8)
        assert wire.ended
    else:
        world.advance(50)
        assert wire.aborted


def test_an_eof_ends_a_websocket() -> None:
    world = plain_world()
    wire = open_websocket(world)
    wire.eof()
    assert wire.ended
    assert world.server.next_timeout() is None


# -- reading ahead ---------------------------------------------------------------------------------


def test_a_peer_that_sends_ahead_is_not_read_until_it_is_answered() -> None:
    world = plain_world(read_ahead_bytes=200)
    wire = world.connect()
    wire.send(GET)
    for _ in range(10):
        wire.send(GET)
    paused = [wire.reading_paused]
    for number in range(11):
        world.respond(world.requests[number], Response(204))
    paused.append(wire.reading_paused)
    assert paused == [True, False]
    assert [status_of(wire) for _ in range(12)] == [204] * 11 + [None]


def test_it_is_told_once() -> None:
    server = Server(Config(ai_namespace=None, read_ahead_bytes=1), ids=SeededIds())
    conn = server.connected(Peer(), NOW)
    server.receive_data(conn, GET, NOW)
    for _ in range(3):
        server.receive_data(conn, b"GET", NOW)
    server.respond(conn, Response(200), NOW)
    server.data_to_send(conn, 1_000, NOW)
    outputs = list(iter(server.poll, None))
    assert outputs.count(PauseReading(conn)) == 1
    assert outputs.count(ResumeReading(conn)) == 1
    assert outputs.count(WantWrite(conn)) == 1


# -- WebSockets ------------------------------------------------------------------------------------


def test_messages_in_the_read_of_the_handshake_are_answered_in_order() -> None:
    world = plain_world()
    wire = world.connect()
    wire.send(HANDSHAKE + masked_frame(b"40") + masked_frame(b'421["a"]') + masked_frame(b"p", 9))
    assert status_of(wire) == 101
    frames = wire.frames()
    assert [frame.opcode for frame in frames] == [10, 1, 1]  # a pong may overtake
    assert frames[1].text.startswith("0{")
    assert frames[2].text.startswith("40{")
    assert len(world.program) == 2


def test_a_bad_frame_in_the_read_of_the_handshake_closes_behind_the_open_packet() -> None:
    world = plain_world()
    wire = world.connect()
    wire.send(HANDSHAKE + b"\xc1\x80\x00\x00\x00\x00")
    assert status_of(wire) == 101
    frames = wire.frames()
    assert [frame.opcode for frame in frames] == [1, 8]
    assert wire.ended


def test_a_half_closed_handshake_opens_nothing() -> None:
    world = plain_world()
    wire = world.connect()
    wire.room = 0
    wire.send(HANDSHAKE)
    wire.eof()
    wire.unblock()
    assert status_of(wire) == 101
    assert wire.ended
    assert world.server.next_timeout() is None


def test_what_comes_ahead_of_a_slow_handshake_is_held_back() -> None:
    world = plain_world(read_ahead_bytes=100)
    wire = world.connect()
    wire.room = 100
    wire.send(HANDSHAKE + masked_frame(b"40"))
    wire.send(masked_frame(b'42["a"]') * 10)
    paused = [wire.reading_paused]
    wire.unblock()
    paused.append(wire.reading_paused)
    assert paused == [True, False]
    assert len(world.program) == 11


def test_a_full_socket_gets_the_rest_later() -> None:
    world = plain_world()
    wire = open_websocket(world)
    socket = join(wire)
    wire.room = 5
    for number in range(10):
        world.server.emit(socket, number, [], world.now)
    world.pump()
    assert len(wire.received) == 5
    while wire.room == 0:
        wire.unblock(7)
        if wire.room:
            wire.unblock()
    assert wire.texts() == [f"42[{number}]" for number in range(10)]


def test_a_ping_flood_of_a_peer_that_does_not_read_is_bounded() -> None:
    world = plain_world()
    wire = open_websocket(world)
    wire.room = 0
    for number in range(2_000):
        wire.send_frame(b"%d" % number, 9)
    wire.unblock()
    latest = [(10, b"%d" % number) for number in range(1_984, 2_000)]
    assert [(frame.opcode, frame.payload) for frame in wire.frames()] == latest


# -- misuse by the runtime -------------------------------------------------------------------------


def test_a_connection_that_is_not_there() -> None:
    world = plain_world()
    server, conn = world.server, ConnId(77)
    with pytest.raises(LocalProtocolError):
        server.receive_data(conn, b"x", NOW)
    with pytest.raises(LocalProtocolError):
        server.receive_eof(conn, NOW)
    server.connection_lost(conn, NOW)
    server.write_blocked(conn, NOW)
    assert server.data_to_send(conn, 10, NOW).data == b""
    assert server.poll() is None


def test_room_for_nothing_is_no_room() -> None:
    world = plain_world()
    with pytest.raises(LocalProtocolError):
        world.server.data_to_send(world.connect().conn, 0, NOW)


def test_a_lost_connection_leaves_no_timer() -> None:
    world = plain_world()
    for sent in (
        b"",
        b"GET",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n",
        GET,
        b"\n",
    ):
        wire = world.connect()
        wire.send(sent)
        if wire.open:
            wire.drop()
            world.server.connection_lost(wire.conn, world.now)
    assert world.server.next_timeout() is None


def test_an_abort_names_its_reason() -> None:
    server = Server(Config(ai_namespace=None), ids=SeededIds())
    conn = server.connected(Peer(), NOW)
    server.receive_data(conn, b"\n", NOW)
    server.handle_timeout(Millis(NOW + 30_000))
    assert list(iter(server.poll, None)) == [WantWrite(conn), Abort(conn, "http write")]


def test_many_clients_come_and_go() -> None:
    world = plain_world()
    for _ in range(20):
        wires = [open_websocket(world) for _ in range(10)]
        for wire in wires:
            join(wire)
        for number, wire in enumerate(wires):
            wire.send_text("1") if number % 2 else wire.drop()
        world.advance(10_000)
    assert not world.wires
    assert world.server.next_timeout() is None
