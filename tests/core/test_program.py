"""What a program does to its sockets: joins, events, acknowledgements, rooms, broadcasts."""

import pytest
from core.builds import COMPILED, WRONG_TYPE
from core.clients import close_code, join, open_websocket, plain_world, sid_in_reply
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import AckFailed, Acknowledged, Connected, Disconnected, Joining
from tokenwire.testing import Wire, World


def joined(count: int = 1, **changes: object) -> tuple[World, list[Wire], list[str]]:
    """Return a world with so many clients in `/`."""
    world = plain_world(**{"namespaces": ("/", "/custom"), **changes})
    wires = [open_websocket(world) for _ in range(count)]
    sockets = [join(wire) for wire in wires]
    world.program.clear()
    return world, wires, sockets


# -- joining ---------------------------------------------------------------------------------------


def asked(**changes: object) -> tuple[World, Wire, Joining]:
    world = plain_world(program_decides_joins=True, **changes)
    wire = open_websocket(world)
    wire.send_text('40{"token":"t"}')
    (joining,) = world.program
    assert isinstance(joining, Joining)
    assert (joining.namespace, joining.auth) == ("/", {"token": "t"})
    world.program.clear()
    return world, wire, joining


def test_the_program_lets_a_client_in() -> None:
    world, wire, joining = asked()
    assert wire.texts() == []
    world.server.admit(joining.socket, world.now)
    world.pump()
    assert [sid_in_reply(text) for text in wire.texts()] == [joining.socket]
    assert list(world.program) == [Connected(joining.socket, "/", {"token": "t"})]


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (None, '44{"message":"no"}'),
        ({"code": 7}, '44{"message":"no","data":{"code":7}}'),
    ],
)
def test_the_program_refuses_a_client(data: dict[str, object] | None, reply: str) -> None:
    world, wire, joining = asked()
    world.server.refuse(joining.socket, "no", world.now, data)
    world.pump()
    assert wire.texts() == [reply]
    assert not world.program


@pytest.mark.parametrize("data", [{"bytes": b"x"}, {"object": object()}])
def test_a_refusal_that_cannot_be_sent_is_an_error_and_changes_nothing(
    data: dict[str, object],
) -> None:
    world, wire, joining = asked()
    with pytest.raises(LocalProtocolError):
        world.server.refuse(joining.socket, "no", world.now, data)
    world.server.admit(joining.socket, world.now)
    world.pump()
    assert len(wire.texts()) == 1


def test_an_answer_to_who_has_gone_does_nothing() -> None:
    world, wire, joining = asked()
    wire.drop()
    world.server.admit(joining.socket, world.now)
    world.server.refuse(joining.socket, "no", world.now)
    assert not world.program
    with pytest.raises(LocalProtocolError):
        world.server.emit(joining.socket, "a", [], world.now)


def test_a_second_answer_does_nothing() -> None:
    world, wire, joining = asked()
    world.server.admit(joining.socket, world.now)
    world.server.refuse(joining.socket, "no", world.now)
    world.pump()
    assert len(wire.texts()) == 1


# -- events ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["connect", "connect_error", "disconnect", "newListener"])
def test_reserved_names_are_refused(name: str) -> None:
    world, _, (socket,) = joined()
    with pytest.raises(LocalProtocolError, match=name):
        world.server.emit(socket, name, [], world.now)
    with pytest.raises(LocalProtocolError, match=name):
        world.server.broadcast("/", name, [], world.now)


def test_arguments_that_cannot_be_sent_change_nothing() -> None:
    world, (wire,), (socket,) = joined()
    for call in (
        lambda: world.server.emit(socket, "a", [object()], world.now, want_ack=True),
        lambda: world.server.broadcast("/", "a", [object()], world.now),
        lambda: world.server.acknowledge(socket, 1, [object()], world.now),
    ):
        with pytest.raises(LocalProtocolError, match="cannot be sent"):
            call()
    assert world.server.emit(socket, "a", [], world.now, want_ack=True) == 0
    world.pump()
    assert wire.texts() == ['420["a"]']


@pytest.mark.parametrize(
    "options",
    [
        {"volatile": True, "want_ack": True},
        {"ack_timeout": 5},
        {"ack_timeout": 0, "want_ack": True},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    world, _, (socket,) = joined()
    with pytest.raises(LocalProtocolError):
        world.server.emit(socket, "a", [], world.now, **options)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError):
        world.server.broadcast("/", "a", [], world.now, **options)  # type: ignore[arg-type]


def test_an_acknowledgement_comes_fails_in_time_or_with_the_socket() -> None:
    world, (wire,), (socket,) = joined()
    first, second, third = (
        world.server.emit(socket, "a", [], world.now, want_ack=True, ack_timeout=span)
        for span in (100, 100, None)
    )
    world.pump()
    wire.send_text(f"43{first}[1]")
    world.advance(100)
    assert list(world.program) == [
        Acknowledged(socket, 0, (1,)),
        AckFailed(socket, 1, "timeout"),
    ]
    world.program.clear()
    wire.send_text(f"43{second}[1]")  # too late
    wire.send_text("41")
    assert list(world.program) == [
        AckFailed(socket, 2, "disconnected"),
        Disconnected(socket, "/", "client namespace disconnect"),
    ]
    assert third == 2
    world.advance(1_000)
    assert len(world.program) == 2


def test_a_client_that_is_dropped_by_what_it_is_asked_fails_to_answer() -> None:
    world, (wire,), (socket,) = joined(outbox_bytes=50)
    wire.room = 0
    for _ in range(2):
        world.server.emit(socket, "a", ["x" * 40], world.now, want_ack=True, ack_timeout=10)
        world.pump()
    assert [type(output) for output in world.program] == [AckFailed, AckFailed, Disconnected]
    world.advance(100)
    assert len(world.program) == 3


def test_a_volatile_event_is_dropped_by_a_full_socket() -> None:
    world, (wire,), (socket,) = joined()
    wire.room = 0
    world.server.emit(socket, "a", [1], world.now)
    world.pump()
    world.server.emit(socket, "a", [2], world.now, volatile=True)
    world.pump()
    wire.unblock()
    world.server.emit(socket, "a", [3], world.now, volatile=True)
    world.pump()
    assert wire.texts() == ['42["a",1]', '42["a",3]']


def test_disconnect_takes_a_socket_out_and_with_close_the_transport_too() -> None:
    world, (wire, other), (socket, second) = joined(2)
    world.server.disconnect(socket, world.now)
    world.server.disconnect(second, world.now, close=True)
    world.pump()
    assert wire.texts() == ["41"]
    assert close_code(wire) is None
    assert close_code(other) == 1000
    with pytest.raises(LocalProtocolError):
        world.server.disconnect(socket, world.now)


# -- rooms and broadcasts --------------------------------------------------------------------------


def test_rooms_are_entered_and_left() -> None:
    world, _, (first, second) = joined(2)
    core = world.server
    for room in ("r", "s", "r"):
        core.join(first, room)
    core.join(second, "r")
    assert core.rooms(first) == ("r", "s")
    assert core.members("/", "r") == (first, second)
    assert core.members("/") == (first, second)
    assert core.members("/custom", "r") == ()
    core.leave(first, "r")
    core.leave(first, "never")
    assert core.members("/", "r") == (second,)
    assert core.members("/", first) == (first,)
    assert core.members("/custom", first) == ()
    assert core.members("/nowhere") == ()


def test_a_socket_that_has_left_has_no_rooms() -> None:
    world, (wire,), (socket,) = joined()
    world.server.join(socket, "r")
    wire.drop()
    assert world.server.members("/", "r") == ()
    for call in (
        lambda: world.server.join(socket, "r"),
        lambda: world.server.leave(socket, "r"),
        lambda: world.server.rooms(socket),
    ):
        with pytest.raises(LocalProtocolError, match="no such socket"):
            call()


def test_a_broadcast_reaches_rooms_once_but_for_those_left_out() -> None:
    world, wires, sockets = joined(4)
    for socket, rooms in zip(sockets, ("r", "rs", "s", ""), strict=True):
        for room in rooms:
            world.server.join(socket, room)
    assert world.server.broadcast("/", "a", [b"x"], world.now, rooms=("r", "s")) == {}
    world.server.broadcast("/", "b", [], world.now, exclude=("s", sockets[0]))
    world.server.broadcast("/", "c", [], world.now, rooms=(sockets[3], "nobody"))
    world.server.broadcast("/", "d", [], world.now, rooms=())
    world.pump()
    heard = [[text[2:] for text in wire.texts()] for wire in wires]
    binary = '1-["a",{"_placeholder":true,"num":0}]'
    assert [[text for text in texts if text] for texts in heard] == [
        [binary], [binary], [binary], ['["b"]', '["c"]'],
    ]  # fmt: skip


def test_a_broadcast_asks_each_for_an_acknowledgement() -> None:
    world, wires, sockets = joined(3)
    asked = world.server.broadcast(
        "/", "a", [], world.now, want_ack=True, ack_timeout=100, exclude=(sockets[2],)
    )
    assert asked == {sockets[0]: 0, sockets[1]: 0}
    world.pump()
    wires[0].send_text('430["yes"]')
    world.advance(100)
    assert list(world.program) == [
        Acknowledged(sockets[0], 0, ("yes",)),
        AckFailed(sockets[1], 0, "timeout"),
    ]


def test_a_broadcast_goes_on_behind_sockets_that_it_has_dropped() -> None:
    world = plain_world(outbox_bytes=50)
    wire, other = open_websocket(world), open_websocket(world)
    join(wire)
    join(other)
    wire.room = 0
    for _ in range(2):
        world.server.broadcast("/", "a", ["x" * 40], world.now, volatile=False)
        world.pump()
    assert len(other.texts()) == 2
    assert not wire.open


def test_an_event_is_acknowledged() -> None:
    world, (wire,), (socket,) = joined()
    world.server.acknowledge(socket, 5, ["a", b"x"], world.now)
    world.pump()
    assert wire.texts()[:1] == ['461-5["a",{"_placeholder":true,"num":0}]']


@pytest.mark.parametrize("name", [None, b"n", 1.5, ["a"]])
def test_a_name_that_no_client_takes_is_refused(name: object) -> None:
    world, _, (socket,) = joined()
    with pytest.raises(WRONG_TYPE, match=r"an event is a string or|str, int.* expected"):
        world.server.emit(socket, name, [], world.now)  # type: ignore[arg-type]


def test_an_ack_id_that_no_event_has_is_refused() -> None:
    world, _, (socket,) = joined()
    with pytest.raises(LocalProtocolError, match="ack_id"):
        world.server.acknowledge(socket, -1, [], world.now)
    with pytest.raises(WRONG_TYPE, match=r"ack_id|int object expected"):
        world.server.acknowledge(socket, None, [], world.now)  # type: ignore[arg-type]


def test_truth_is_no_number() -> None:
    world, _, (socket,) = joined()
    for truth in (True, False):
        with pytest.raises(LocalProtocolError, match="name of an event"):
            world.server.emit(socket, truth, [], world.now)
    if not COMPILED:
        with pytest.raises(LocalProtocolError, match="ack_id"):
            world.server.acknowledge(socket, True, [], world.now)


@pytest.mark.parametrize("names", ["room", {"room"}, iter(["room"])])
def test_rooms_without_an_order_or_in_letters_are_refused(names: object) -> None:
    world, _, _ = joined()
    with pytest.raises(LocalProtocolError, match="lists of names"):
        world.server.broadcast("/", "a", [], world.now, rooms=names)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="lists of names"):
        world.server.broadcast("/", "a", [], world.now, exclude=names)  # type: ignore[arg-type]
