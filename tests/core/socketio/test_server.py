"""The namespaces there are, and sockets by their ids."""

import pytest
from core.clients import (
    Polling,
    asking,
    close_code,
    join,
    open_websocket,
    plain_world,
    sid_in_reply,
)
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import (
    AckFailed,
    Acknowledged,
    Connected,
    Disconnected,
    Event,
    Forgotten,
    Joining,
)


def test_namespaces_are_multiplexed_over_one_connection() -> None:
    world = plain_world(namespaces=("/", "/a", "/b"))
    wire = open_websocket(world)
    sockets = {name: join(wire, name) for name in ("/a", "/", "/b")}
    assert len(set(sockets.values())) == 3
    for name, socket in sockets.items():
        world.server.emit(socket, "hello", [name], world.now)
    world.pump()
    assert wire.texts() == ['42/a,["hello","/a"]', '42["hello","/"]', '42/b,["hello","/b"]']


def test_those_that_have_joined_nothing_make_room_for_each_other() -> None:
    world = plain_world(max_sessions=25)  # a tenth of them
    joined = open_websocket(world)
    join(joined)
    polling = Polling(world)
    waiting = polling.hanging()
    first, second = open_websocket(world), open_websocket(world)
    answer = waiting.answer()
    assert answer is not None
    assert answer.body == b"1"
    assert first.open
    gone = polling.poll()
    assert gone is not None
    assert (gone.status, gone.body) == (400, b'{"code":1,"message":"Session ID unknown"}')
    third = open_websocket(world)
    assert close_code(first) == 1000
    join(third)
    for _ in range(4):
        open_websocket(world)
    assert close_code(second) == 1000
    joined.send_text('42["a"]')
    third.send_text('42["a"]')
    assert [type(output) for output in world.program].count(Event) == 2


def test_one_that_may_wait_is_always_there() -> None:
    world = plain_world(max_sessions=3)
    first = open_websocket(world)
    second = open_websocket(world)
    assert close_code(first) == 1000
    assert join(second)


def test_what_happens_in_a_programs_namespace_becomes_outputs() -> None:
    world = plain_world()
    wire = open_websocket(world)
    wire.send_text('40{"token":1}')
    wire.send_text('421["a",2]')
    connected = world.program[0]
    assert isinstance(connected, Connected)
    world.server.emit(connected.socket, "b", [], world.now, want_ack=True)
    wire.send_text("430[3]")
    wire.send_text("41")
    assert list(world.program) == [
        Connected(connected.socket, "/", {"token": 1}),
        Event(connected.socket, "/", "a", (2,), 1),
        Acknowledged(connected.socket, 0, (3,)),
        Disconnected(connected.socket, "/", "client namespace disconnect"),
    ]


def test_a_namespace_may_be_added_and_a_slow_client_is_dropped_from_it() -> None:
    world = plain_world(outbox_bytes=50, connect_timeout=100)
    server = world.server._sockets
    program = server.namespace("/")
    assert program is not None
    server.add_namespace("/more", program)
    wire = open_websocket(world)
    socket = join(wire, "/more")
    wire.room = 0
    for _ in range(2):
        world.server.emit(socket, "a", ["x" * 40], world.now)
        world.pump()
    assert world.program.pop() == Disconnected(socket, "/more", "slow consumer")


def test_who_joins_nothing_is_closed_and_who_is_closed_by_the_program_hears_it() -> None:
    world = plain_world(connect_timeout=100)
    silent, spoken = open_websocket(world), open_websocket(world)
    socket = join(spoken)
    world.advance(100)
    assert close_code(silent) == 1000
    world.server.disconnect(socket, world.now, close=True)
    world.pump()
    assert close_code(spoken) == 1000


def test_clients_do_not_hear_each_other() -> None:
    world = plain_world()
    wires = [open_websocket(world) for _ in range(3)]
    sockets = [join(wire) for wire in wires]
    world.server.emit(sockets[1], "yours", [], world.now)
    world.pump()
    assert [wire.texts() for wire in wires] == [[], ['42["yours"]'], []]


def test_a_socket_that_has_left_is_unknown() -> None:
    world = plain_world()
    wire = open_websocket(world)
    socket = join(wire)
    wire.send_text("41")
    with pytest.raises(LocalProtocolError):
        world.server.emit(socket, "a", [], world.now)
    with pytest.raises(LocalProtocolError):
        world.server.acknowledge(socket, 1, [], world.now)
    with pytest.raises(LocalProtocolError):
        world.server.disconnect(socket, world.now)


def test_the_root_namespace_is_not_joined_by_joining_another() -> None:
    world = plain_world(namespaces=("/custom",))
    wire = open_websocket(world)
    join(wire, "/custom")
    wire.send_text("40")
    assert wire.texts() == ['44{"message":"Invalid namespace"}']
    wire.send_text('42["a"]')
    assert close_code(wire) == 1002


# -- patterns, pending joins, timers ---------------------------------------------------------------


def test_namespaces_by_pattern_are_literal_names_with_the_same_program() -> None:
    world = plain_world(namespaces=(), namespace_patterns=("/a[0-9]", "/b.*"), namespace_chars=8)
    wire = open_websocket(world)
    sockets = [join(wire, name) for name in ("/a1", "/bcdefgh", "/b")]
    for name in ("/a12", "/bcdefghi", "/", "/c"):
        wire.send_text(f"40{name},")
    assert len(wire.texts()) == 4
    assert [(output.socket, output.namespace) for output in world.program
            if isinstance(output, Connected)] == list(
        zip(sockets, ("/a1", "/bcdefgh", "/b"), strict=True)
    )  # fmt: skip


def test_a_join_that_nobody_answers_is_refused_in_time() -> None:
    world = plain_world(program_decides_joins=True, connect_timeout=1_000, namespaces=("/", "/a"))
    wire = open_websocket(world)
    wire.send_text("40")
    (first,) = world.program
    assert isinstance(first, Joining)
    world.server.admit(first.socket, world.now)
    world.pump()
    wire.send_text("40/a,")
    world.advance(1_000)
    assert wire.texts()[1:] == ['44/a,{"message":"Connection timed out"}']


def test_the_programs_time_to_answer_is_not_the_clients() -> None:
    world = plain_world(program_decides_joins=True, connect_timeout=1_000)
    wire = open_websocket(world)
    world.advance(500)
    wire.send_text("40")
    world.advance(500)
    assert close_code(wire) is None
    world.advance(500)
    assert wire.texts() == ['44{"message":"Connection timed out"}']
    world.advance(500)
    assert close_code(wire) == 1000


def test_an_answer_lets_in_refuses_or_comes_too_late() -> None:
    world = plain_world(program_decides_joins=True)
    wires = [open_websocket(world) for _ in range(3)]
    for wire in wires:
        wire.send_text("40")
    first, second, third = asking(world)
    wires[2].drop()
    world.server.admit(first, world.now)
    world.server.refuse(second, "no", world.now)
    world.server.admit(third, world.now)
    world.pump()
    assert sid_in_reply(wires[0].texts()[0]) == first
    assert wires[1].texts() == ['44{"message":"no"}']


def test_timers_of_acknowledgements_and_of_recovery_reach_the_program() -> None:
    world = plain_world(recovery_timeout=1_000)
    wire = open_websocket(world)
    socket = join(wire)
    world.server.emit(socket, "a", [], world.now, want_ack=True, ack_timeout=50)
    world.advance(50)
    wire.drop()
    world.advance(1_000)
    assert list(world.program)[1:] == [
        AckFailed(socket, 0, "timeout"),
        Disconnected(socket, "/", "transport close", may_return=True),
        Forgotten(socket, "/"),
    ]


def test_a_shutdown_waits_for_clients_that_have_not_been_handed_everything() -> None:
    world = plain_world()
    wire = open_websocket(world)
    socket = join(wire)
    wire.room = 0
    for _ in range(2):
        world.server.emit(socket, "a", [], world.now)
        world.pump()
    world.server.shut_down(world.now)
    world.advance(100)
    assert world.server.members("/") == (socket,)
    wire.unblock()
    world.advance(100)
    assert wire.texts()[:2] == ['42["a"]'] * 2
    assert world.server.members("/") == ()
