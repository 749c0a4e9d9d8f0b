"""Engine.IO with nothing above it: messages in, messages out."""

import pytest
from core.clients import Polling, close_code, open_websocket, plain_world, sid_of
from tokenwire.config import Config
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import Message, SessionClosed, SessionOpened
from tokenwire.testing import Wire, World


def opened(**changes: object) -> tuple[World, Wire, str]:
    world = plain_world(protocol="engine.io", **changes)
    wire = world.connect()
    wire.upgrade("/socket.io/?EIO=4&transport=websocket")
    (opening,) = wire.texts()
    (session,) = world.program
    assert session == SessionOpened(sid_of(opening.encode()))
    assert isinstance(session, SessionOpened)
    world.program.clear()
    return world, wire, session.session


def test_messages_both_ways() -> None:
    world, wire, session = opened()
    wire.send_text("4héllo")
    wire.send_frame(b"\x01\x02", opcode=2)
    assert list(world.program) == [Message(session, "héllo"), Message(session, b"\x01\x02")]
    world.server.send(session, "ä", world.now)
    world.server.send(session, b"\x03", world.now)
    world.pump()
    assert [frame.payload for frame in wire.frames()] == ["4ä".encode(), b"\x03"]


def test_a_session_over_polling_and_its_end() -> None:
    world = plain_world(protocol="engine.io")
    client = Polling(world)
    world.server.send(client.sid, "a", world.now)
    world.server.send(client.sid, b"b", world.now)
    answer = client.poll()
    assert answer is not None
    assert answer.body == b"4a\x1ebYg=="
    world.server.send(client.sid, "last", world.now)
    world.server.close(client.sid, world.now)
    answer = client.poll()
    assert answer is not None
    assert answer.body == b"4last\x1e1"
    assert world.program.pop() == SessionClosed(client.sid, "forced close")
    with pytest.raises(LocalProtocolError, match="no such session"):
        world.server.send(client.sid, "a", world.now)
    with pytest.raises(LocalProtocolError, match="no such session"):
        world.server.close(client.sid, world.now)


def test_a_ping_goes_before_what_waits() -> None:
    world, wire, session = opened(heartbeat_interval=1_000, heartbeat_timeout=500)
    wire.unblock(0)
    world.server.send(session, "waits", world.now)
    world.advance(1_000)
    wire.unblock(1_000)
    assert wire.texts() == ["2", "4waits"]
    wire.send_text("3")
    world.advance(900)
    assert wire.open
    assert wire.texts() == []
    assert not world.program


def test_text_that_is_no_unicode_is_refused() -> None:
    world, _, session = opened()
    with pytest.raises(LocalProtocolError, match="surrogates"):
        world.server.send(session, "\ud800", world.now)


def test_a_slow_reader_is_dropped() -> None:
    world, wire, session = opened(outbox_bytes=10)
    wire.room = 0
    for _ in range(2):
        world.server.send(session, "x" * 10, world.now)
        world.pump()
    assert world.program.pop() == SessionClosed(session, "slow consumer")
    assert not wire.open


def test_a_lost_session_is_closed_and_a_wrong_packet_too() -> None:
    world, wire, session = opened()
    wire.drop()
    assert list(world.program) == [SessionClosed(session, "transport close")]
    other = open_websocket(world)
    other.send_text("2")
    assert close_code(other) == 1002


def test_a_shutdown_waits_for_what_is_queued() -> None:
    world, wire, session = opened(shutdown_timeout=1_000)
    wire.room = 0
    world.server.send(session, "x", world.now)
    world.pump()
    world.server.shut_down(world.now)
    world.advance(100)
    assert wire.open
    wire.unblock()
    world.advance(100)
    assert [frame.opcode for frame in wire.frames()] == [1, 8]


def test_it_has_no_ai_protocol() -> None:
    with pytest.raises(LocalProtocolError, match="ai_namespace"):
        Config(protocol="engine.io")
