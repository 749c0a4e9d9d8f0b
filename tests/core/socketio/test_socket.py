"""A socket: what it sends, with and without a client behind it."""

from core.clients import join, open_websocket, plain_world
from tokenwire.socketio.binary import Body, encode_body
from tokenwire.socketio.recovery import Journal
from tokenwire.socketio.socket import Socket
from tokenwire.testing import Wire, World

EVENT = Body(b'["a"]')


def setting(**changes: object) -> tuple[World, Wire, Socket]:
    world = plain_world(namespaces=("/", "/custom"), **changes)
    wire = open_websocket(world)
    return world, wire, world.server._sockets.program.socket(join(wire, "/custom"))


def test_events_questions_and_answers() -> None:
    world, wire, socket = setting()
    socket.send_event(b'["raw"]', world.now)
    socket.emit(EVENT, world.now)
    socket.emit(EVENT, world.now, volatile=True)
    socket.emit(encode_body(["b", b"\x01"], 10), world.now)
    assert [socket.ask(EVENT, world.now) for _ in range(2)] == [0, 1]
    socket.acknowledge(7, Body(b"[]"), world.now)
    world.pump()
    texts = [
        frame.payload.decode() if frame.opcode == 1 else frame.payload for frame in wire.frames()
    ]
    assert texts == [
        '42/custom,["raw"]',
        '42/custom,["a"]',
        '42/custom,["a"]',
        '451-/custom,["b",{"_placeholder":true,"num":0}]',
        b"\x01",
        '42/custom,0["a"]',
        '42/custom,1["a"]',
        "43/custom,7[]",
    ]


def test_an_acknowledgement_is_taken_once() -> None:
    world, _, socket = setting()
    ack_id = socket.ask(EVENT, world.now)
    assert socket.waits_for(ack_id)
    assert socket.takes_ack(ack_id)
    assert not socket.takes_ack(ack_id)
    assert not socket.waits_for(ack_id)
    socket.ask(EVENT, world.now)
    assert socket.end_acks() == [1]
    assert socket.end_acks() == []


def test_a_journal_numbers_what_may_be_missed() -> None:
    world, wire, socket = setting()
    socket.journal = Journal("n", 1_000)
    socket.emit(EVENT, world.now)
    socket.emit(EVENT, world.now, volatile=True)
    socket.ask(EVENT, world.now)
    socket.emit(EVENT, world.now)
    world.pump()
    assert [text.removeprefix("42/custom,") for text in wire.texts()] == [
        '["a","n.1"]', '["a","n.1"]', '0["a"]', '["a","n.2"]',
    ]  # fmt: skip
    assert socket.journal.last == 2


def test_a_socket_whose_client_is_away_keeps_events_alone() -> None:
    world, wire, socket = setting()
    assert socket.user_agent == ""
    socket.journal = Journal("n", 1_000)
    wire.drop()
    assert socket.carrier is None
    assert not socket.writable()
    socket.emit(EVENT, world.now)
    socket.emit(EVENT, world.now, volatile=True)
    socket.acknowledge(1, EVENT, world.now)
    socket.send_event(b"[]", world.now)
    socket.disconnect(world.now)
    socket.wake()
    assert not socket.waits_for(socket.ask(EVENT, world.now))
    assert socket.user_agent == ""
    assert socket.journal.after(0) == [[b'2/custom,["a","n.1"]']]
    assert world.server.poll() is None


def test_its_user_agent_is_the_handshakes() -> None:
    world = plain_world()
    wire = open_websocket(world, {"User-Agent": "frontend/1"})
    socket = world.server._sockets.program.socket(join(wire))
    assert socket.user_agent == "frontend/1"
    socket.disconnect(world.now)
    world.pump()
    assert wire.texts() == ["41"]


def test_it_closes_the_transport_and_wakes_it() -> None:
    world, wire, socket = setting()
    socket.wake()
    socket.disconnect(world.now, close=True)
    world.pump()
    assert [frame.opcode for frame in wire.frames()] == [1, 8]
