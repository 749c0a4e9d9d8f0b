"""The heartbeat, and how sessions end.

Rules of this file: from bytes to bytes, in a virtual world; what stock clients see is what is
looked at.
"""

import pytest
from core.clients import (
    POLLING,
    Polling,
    close_code,
    join,
    open_websocket,
    plain_world,
)
from core.engineio.looks import FAST, ask, body, echo, error, kept, reasons
from tokenwire.testing import World
from tokenwire.types import Millis


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
