"""Rooms as a table."""

from core.clients import join, open_websocket, plain_world
from tokenwire.socketio.rooms import Rooms
from tokenwire.socketio.socket import Socket


def sockets(*namespaces: str) -> list[Socket]:
    world = plain_world(namespaces=("/", "/custom"))
    return [
        world.server._sockets.program.socket(join(open_websocket(world), namespace))
        for namespace in namespaces
    ]


def test_a_room_is_there_while_somebody_is_in_it() -> None:
    rooms = Rooms()
    a, b, elsewhere = sockets("/", "/", "/custom")
    rooms.enter(a, "r")
    rooms.enter(b, "r")
    rooms.enter(b, "r")
    rooms.enter(elsewhere, "r")
    assert rooms.members("/", "r") == (a, b)
    assert rooms.members("/custom", "r") == (elsewhere,)
    rooms.leave(a, "r")
    rooms.leave(a, "r")
    assert rooms.members("/", "r") == (b,)
    rooms.leave(b, "r")
    assert rooms.members("/", "r") == ()
    assert rooms.of(b) == ()


def test_who_leaves_all_leaves_nothing_behind() -> None:
    rooms = Rooms()
    a, b = sockets("/", "/")
    for room in ("r", "s"):
        rooms.enter(a, room)
        rooms.enter(b, room)
    assert rooms.of(a) == ("r", "s")
    rooms.leave_all(a)
    rooms.leave_all(a)
    assert rooms.of(a) == ()
    assert rooms.members("/", "s") == (b,)
