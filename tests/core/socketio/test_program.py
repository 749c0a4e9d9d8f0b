"""The program's namespaces: each thing that happens is one output."""

from core.clients import open_websocket, plain_world, sid_in_reply
from tokenwire.outputs import AckFailed, Acknowledged, Connected, Disconnected, Event, Joining


def test_what_happens_becomes_outputs() -> None:
    world = plain_world()
    wire = open_websocket(world)
    wire.send_text('40{"pid":"mine"}')
    socket = sid_in_reply(wire.texts()[0])
    wire.send_text('421["a",2]')
    for _ in range(2):
        world.server.emit(socket, "b", [], world.now, want_ack=True)
    wire.send_text("430[3]")
    wire.drop()
    assert list(world.program) == [
        Connected(socket, "/", {"pid": "mine"}),
        Event(socket, "/", "a", (2,), 1),
        Acknowledged(socket, 0, (3,)),
        AckFailed(socket, 1, "disconnected"),
        Disconnected(socket, "/", "transport close"),
    ]


def test_the_program_is_asked_and_does_not_see_a_pid() -> None:
    world = plain_world(program_decides_joins=True, recovery_timeout=1_000)
    wire = open_websocket(world)
    wire.send_text('40{"pid":"secret","offset":"1","token":"t"}')
    (joining,) = world.program
    assert isinstance(joining, Joining)
    assert joining.auth == {"token": "t"}
    world.server.admit(joining.socket, world.now)
    world.pump()
    assert world.program[1] == Connected(joining.socket, "/", {"token": "t"})


def test_a_socket_that_comes_back_is_connected_again() -> None:
    world = plain_world(recovery_timeout=1_000)
    wire = open_websocket(world)
    wire.send_text("40")
    (reply,) = wire.texts()
    pid = reply.partition('"pid":"')[2].rstrip('"}')
    wire.drop()
    world.program.clear()
    again = open_websocket(world)
    again.send_text(f'40{{"pid":"{pid}"}}')
    assert list(world.program) == [Connected(sid_in_reply(reply), "/", {}, recovered=True)]
