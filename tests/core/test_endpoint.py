"""The message door: whole requests and messages in, answers and packets out.

Rules of this file: an Endpoint alone, as a program on somebody else's HTTP drives it; or the
program's own calls through a world, where a peer has to see what came of them.
"""

import math

import pytest
from core.clients import Polling, join, open_websocket, plain_world, sid_of
from tokenwire.config import Config
from tokenwire.endpoint import Endpoint
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import (
    Abort,
    Event,
    HttpRequest,
    Message,
    SessionOpened,
    Stopped,
    WantWrite,
)
from tokenwire.testing import SeededIds, World
from tokenwire.types import ConnId, Headers, Millis, Peer, Request, Response, StreamId
from tokenwire.wire import Binary

NOW = Millis(1_000)
OPEN = Request("GET", "/socket.io/", "EIO=4&transport=websocket", upgrade=True)


def endpoint(**changes: object) -> Endpoint:
    config = {"ai_namespace": None, **changes}
    return Endpoint(Config(**config), ids=SeededIds())  # type: ignore[arg-type]


def opened(core: Endpoint) -> ConnId:
    """Open a WebSocket session."""
    conn = core.connected(Peer(), NOW)
    core.receive_request(conn, OPEN, NOW)
    response = core.response_to_send(conn, NOW)
    assert response is not None
    assert response.status == 101
    return conn


def messages(core: Endpoint, conn: ConnId) -> list[bytes]:
    out: list[bytes] = []
    core.messages_to_send(conn, out, 100_000, NOW)
    return out


def test_a_session_over_messages() -> None:
    core = endpoint()
    conn = opened(core)
    (opening,) = messages(core, conn)
    assert sid_of(opening)
    core.receive_message(conn, b"40", NOW)
    core.receive_message(conn, b'451-["a",{"_placeholder":true,"num":0}]', NOW)
    core.receive_message(conn, Binary(b"\x01"), NOW)
    events = [output for output in iter(core.poll, None) if isinstance(output, Event)]
    assert [(event.name, event.args) for event in events] == [("a", (b"\x01",))]
    core.emit(events[0].socket, "b", [b"\x02"], NOW)
    assert messages(core, conn)[-2:] == [b'451-["b",{"_placeholder":true,"num":0}]', b"\x02"]
    assert core.close_code(conn) is None
    core.write_blocked(conn, NOW)
    core.receive_message(conn, b"2", NOW)
    assert core.close_code(conn) == 1002
    core.connection_lost(conn, NOW)
    assert core.close_code(conn) is None


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/socket.io/", True),
        ("/socket.io", True),
        ("/socket.io/x", False),
        ("/socket.iox", False),
        ("/", False),
        ("/SOCKET.IO/", False),
        ("/%73ocket.io/", False),
    ],
)
def test_requests_elsewhere_are_the_programs(path: str, ours: bool) -> None:
    core = endpoint()
    conn = core.connected(Peer(), NOW)
    request = Request("GET", path)
    core.receive_request(conn, request, NOW)
    assert core.poll() == (WantWrite(conn) if ours else HttpRequest(conn, request))


def test_connections_have_names_of_their_own() -> None:
    core = endpoint()
    assert len({core.connected(Peer(), NOW) for _ in range(10)}) == 10


# -- answers of the program ------------------------------------------------------------------------


def asked() -> tuple[Endpoint, ConnId]:
    core = endpoint()
    conn = core.connected(Peer(), NOW)
    core.receive_request(conn, Request("GET", "/x"), NOW)
    core.poll()
    return core, conn


def test_the_program_answers_once() -> None:
    core, conn = asked()
    assert core.response_to_send(conn, NOW) is None
    core.respond(conn, Response(200, (("x-a", "b c"), ("x-empty", "")), b"body"), NOW)
    assert core.poll() == WantWrite(conn)
    with pytest.raises(LocalProtocolError):
        core.respond(conn, Response(200), NOW)
    response = core.response_to_send(conn, NOW)
    assert response is not None
    assert response.body == b"body"
    assert core.response_to_send(conn, NOW) is None


def test_an_answer_to_who_has_gone_is_forgotten() -> None:
    core, conn = asked()
    core.connection_lost(conn, NOW)
    core.respond(conn, Response(200), NOW)
    assert core.poll() is None
    assert core.response_to_send(conn, NOW) is None


def test_a_half_closed_client_still_gets_the_programs_answer() -> None:
    core, conn = asked()
    core.receive_eof(conn, NOW)
    core.respond(conn, Response(200), NOW)
    assert core.response_to_send(conn, NOW) == Response(200)


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, -200])
def test_a_status_that_is_no_final_one_is_refused(status: int) -> None:
    core, conn = asked()
    with pytest.raises(LocalProtocolError):
        core.respond(conn, Response(status), NOW)
    core.respond(conn, Response(200), NOW)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (204, (), b"x"),
        (304, (), b"x"),
        (200, (("x a", "b"),), b""),
        (200, (("X-A", "b"),), b""),
        (200, (("", "b"),), b""),
        (200, (("x-a", "b\r\nx-c: d"),), b""),
        (200, (("x-a", " b"),), b""),
        (200, (("x-a", "é"),), b""),
        (200, (("x-a", "\x1b[2J"),), b""),
        (200, (("content-length", "3"),), b""),
        (200, (("transfer-encoding", "chunked"),), b""),
        (200, (("connection", "close"),), b""),
    ],
)
def test_an_answer_that_cannot_be_sent_is_refused(
    status: int, headers: Headers, body: bytes
) -> None:
    core, conn = asked()
    with pytest.raises(LocalProtocolError):
        core.respond(conn, Response(status, headers, body), NOW)
    assert core.response_to_send(conn, NOW) is None
    core.respond(conn, Response(200), NOW)


# -- the program's own namespaces ------------------------------------------------------------------


def looped() -> list[object]:
    loop: list[object] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize("args", [[object()], ["\ud800"], looped(), [{("a", "b"): 1}]])
def test_what_cannot_be_sent_is_refused_and_changes_nothing(args: list[object]) -> None:
    world = plain_world()
    wire = open_websocket(world)
    socket = join(wire)
    for want_ack in (False, True):
        with pytest.raises(LocalProtocolError):
            world.server.emit(socket, "a", args, world.now, want_ack=want_ack)
    with pytest.raises(LocalProtocolError):
        world.server.acknowledge(socket, 1, args, world.now)
    assert world.server.poll() is None
    assert world.server.emit(socket, "a", [], world.now, want_ack=True) == 0


@pytest.mark.parametrize("name", ["connect", "disconnect", "newListener"])
def test_the_protocols_own_events_are_not_the_programs_to_send(name: str) -> None:
    world = plain_world()
    socket = join(open_websocket(world))
    with pytest.raises(LocalProtocolError):
        world.server.emit(socket, name, [], world.now)


def test_a_number_that_json_lacks_is_null() -> None:
    world = plain_world()
    wire = open_websocket(world)
    world.server.emit(join(wire), "a", [math.nan, math.inf], world.now)
    world.pump()
    assert wire.texts() == ['42["a",null,null]']


def test_a_socket_that_is_not_there_is_refused() -> None:
    core = endpoint()
    with pytest.raises(LocalProtocolError):
        core.emit("x", "a", [], NOW)
    with pytest.raises(LocalProtocolError):
        core.acknowledge("x", 1, [], NOW)
    with pytest.raises(LocalProtocolError):
        core.disconnect("x", NOW)


# -- the trace -------------------------------------------------------------------------------------


def traced(world: World) -> list[tuple[str, object]]:
    """Return what the trace has shown since it was last looked at."""
    shown: list[tuple[str, object]] = [
        (notice.event, dict(notice.fields)["packet"])
        for notice in world.notices
        if notice.event.startswith("packet_") and notice.level == "debug"
    ]
    world.notices.clear()
    return shown


def test_the_trace_shows_every_packet_both_ways_and_nothing_private() -> None:
    world = plain_world(trace=True)
    wire = open_websocket(world)
    join(wire)
    wire.send_frame(b"2", 2)
    assert traced(world) == [
        ("packet_out", "open (106 bytes)"),
        ("packet_in", "CONNECT"),
        ("packet_out", 'CONNECT {"sid":"<20 chars>"}'),
        ("packet_in", "binary (1 bytes)"),
    ]
    client = Polling(world)
    client.join()
    client.post(b'3\x1e42["a","s3cret"]')
    assert traced(world) == [
        ("packet_out", "open (117 bytes)"),
        ("packet_in", "CONNECT"),
        ("packet_out", 'CONNECT {"sid":"<20 chars>"}'),
        ("packet_in", "pong"),
        ("packet_in", 'EVENT ["a","<6 chars>"]'),
    ]


def test_a_hostile_payload_floods_no_log() -> None:
    world = plain_world(trace=True)
    client = Polling(world)
    traced(world)
    assert client.post(b"\x1e" * 100_000).status == 400
    assert len(traced(world)) == world.server.config.max_packets_per_post + 1


def test_without_the_trace_there_is_none() -> None:
    world = plain_world()
    join(open_websocket(world))
    assert traced(world) == []


# -- with and without the AI protocol --------------------------------------------------------------


def test_without_the_ai_protocol_its_inputs_do_nothing() -> None:
    core = endpoint()
    stream = StreamId(1)
    core.upstream_answered(stream, 200, NOW)
    core.receive_upstream(stream, b"{}\n", NOW)
    core.upstream_eof(stream, NOW)
    core.upstream_failed(stream, NOW, reached=True)
    core.upstream_probed(200, b"{}", NOW)
    assert core.poll() is None
    assert core.next_timeout() is None
    assert core.upstream_status() == "unknown"
    with pytest.raises(LocalProtocolError):
        core.stats()
    core.shut_down(NOW)
    assert core.poll() == Stopped()


def test_with_it_they_reach_it() -> None:
    world = World()
    world.offered = ["codellama"]
    world.advance(0)
    assert world.server.upstream_status() == "ok"
    assert world.server.stats().total_sessions == 0
    wire = open_websocket(world)
    wire.send_text("40/ai,")
    for number in range(3):
        wire.send_text(f'42/ai,["ai:stream",{{"prompt":"hello","streamId":"s{number}"}}]')
    one, two, three = world.models
    one.say("hi")
    one.done()
    two.fail(reached=False)
    world.server.upstream_answered(three.stream, 200, world.now)
    world.server.upstream_eof(three.stream, world.now)
    world.pump()
    said = "".join(wire.texts())
    assert said.count('"ai:stream:complete"') == 1
    assert said.count('"ai:stream:error"') == 2
    world.server.shut_down(world.now)
    world.server.shut_down(world.now)  # asked again: nothing more
    world.advance(1_000)
    assert world.stopped


def test_a_shutdown_waits_for_streams_and_ends_in_time() -> None:
    world = World(Config(shutdown_timeout=1_000))
    world.offered = ["codellama"]
    world.advance(0)
    wire = open_websocket(world)
    wire.send_text("40/ai,")
    wire.send_text('42/ai,["ai:stream",{"prompt":"hello"}]')
    world.server.shut_down(world.now)
    world.pump()
    world.advance(900)
    assert not world.stopped
    world.advance(200)
    assert world.stopped


def test_timers_are_handled_in_order_and_extra_calls_are_harmless() -> None:
    core = endpoint(connect_timeout=100, heartbeat_interval=50)
    conn = opened(core)
    core.handle_timeout(NOW)
    deadline = core.next_timeout()
    assert deadline is not None
    assert (deadline.at, deadline.reason) == (NOW + 50, "engine.io ping")
    core.handle_timeout(Millis(NOW + 100))
    core.handle_timeout(Millis(NOW + 100))
    assert messages(core, conn)[0][:1] == b"0"
    assert core.close_code(conn) == 1000
    assert core.next_timeout() is None


# -- plain Engine.IO -------------------------------------------------------------------------------


def test_plain_sessions_over_messages() -> None:
    core = endpoint(protocol="engine.io", shutdown_timeout=1_000)
    conn = opened(core)
    session = next(
        output.session for output in iter(core.poll, None) if isinstance(output, SessionOpened)
    )
    core.receive_message(conn, b"4a", NOW)
    assert [output for output in iter(core.poll, None) if isinstance(output, Message)] == [
        Message(session, "a")
    ]
    core.send(session, "b", NOW)
    assert messages(core, conn)[-1] == b"4b"
    core.close(session, NOW)
    assert core.close_code(conn) == 1000


def test_a_client_that_joins_nothing_is_closed_in_time() -> None:
    core = endpoint(connect_timeout=1_000)
    conn = opened(core)
    core.handle_timeout(Millis(NOW + 1_000))
    assert core.close_code(conn) == 1000


def test_a_websocket_that_does_not_read_its_end_is_aborted() -> None:
    core = endpoint(close_timeout=1_000)
    conn = opened(core)
    core.write_blocked(conn, NOW)
    core.receive_message(conn, b"x", NOW)
    core.handle_timeout(Millis(NOW + 1_000))
    assert Abort(conn, "does not read") in list(iter(core.poll, None))
