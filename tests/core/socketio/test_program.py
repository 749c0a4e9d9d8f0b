"""The program's namespaces: what happens in them, who comes back, who hears what."""

import msgspec
import pytest
from core.ai.client import new_world
from core.clients import close_code, join, open_websocket, plain_world, sid_in_reply
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
from tokenwire.testing import Wire, World
from tokenwire.types import Peer


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


# -- connection state recovery ---------------------------------------------------------------------


def recovering(**changes: object) -> tuple[World, Wire, str, str]:
    world = plain_world(**{"recovery_timeout": 1_000, "namespaces": ("/", "/a"), **changes})
    wire, socket, pid = recoverable(world)
    world.program.clear()
    return world, wire, socket, pid


def recoverable(world: World) -> tuple[Wire, str, str]:
    wire = open_websocket(world)
    wire.send_text('40{"user":"u"}')
    (reply,) = wire.texts()
    return wire, sid_in_reply(reply), reply.partition('"pid":"')[2].rstrip('"}')


def back(world: World, pid: str, offset: str = "", namespace: str = "") -> tuple[Wire, list[str]]:
    wire = open_websocket(world)
    wire.send_text(f'40{namespace}{{"pid":"{pid}","offset":"{offset}","user":"other"}}')
    return wire, wire.texts()


def offset_of(text: str) -> str:
    return text.rpartition(',"')[2].rstrip('"]')


def test_a_socket_that_is_away_is_still_the_programs() -> None:
    world, wire, socket, pid = recovering()
    world.server.join(socket, "r")
    wire.drop()
    assert list(world.program) == [Disconnected(socket, "/", "transport close", may_return=True)]
    assert world.server.rooms(socket) == ("r",)
    assert world.server.members("/", "r") == (socket,)
    world.server.emit(socket, "one", [], world.now)
    world.server.broadcast("/", "two", [], world.now, rooms=("r",))
    world.server.acknowledge(socket, 1, [], world.now)
    assert world.server.emit(socket, "three", [], world.now, want_ack=True) == 0
    world.pump()
    assert world.program.pop() == AckFailed(socket, 0, "disconnected")
    wire, texts = back(world, pid)
    assert sid_in_reply(texts[0]) == socket
    assert [text[:8] for text in texts[1:]] == ['42["one"', '42["two"']
    assert world.program.pop() == Connected(socket, "/", {"user": "u"}, recovered=True)
    world.server.emit(socket, "four", [], world.now)
    world.pump()
    (four,) = wire.texts()
    wire.drop()
    _, texts = back(world, pid, offset_of(four))
    assert len(texts) == 1


def test_a_socket_that_is_away_can_be_sent_off() -> None:
    world, wire, socket, pid = recovering()
    wire.drop()
    world.server.disconnect(socket, world.now)
    world.pump()
    assert world.program.pop() == Forgotten(socket, "/")
    _, texts = back(world, pid)
    assert sid_in_reply(texts[0]) != socket


def test_a_socket_whose_time_is_over_is_forgotten() -> None:
    world, wire, socket, _ = recovering()
    wire.drop()
    world.advance(999)
    assert world.server.members("/") == (socket,)
    world.advance(1)
    assert world.server.members("/") == ()
    assert world.program.pop() == Forgotten(socket, "/")
    assert world.server.next_timeout() is None


def test_who_comes_back_when_its_time_is_over_is_new_also_if_the_timer_is_late() -> None:
    world, wire, socket, pid = recovering(heartbeat_interval=1_000_000)
    again = open_websocket(world)
    wire.drop()
    world.now = type(world.now)(world.now + 1_000)  # and nobody has handled it
    again.send_text(f'40{{"pid":"{pid}"}}')
    assert sid_in_reply(again.texts()[0]) != socket


def test_only_so_many_lost_sockets_are_kept() -> None:
    world = plain_world(recovery_timeout=1_000, max_lost_sockets=2)
    sockets = []
    for _ in range(3):
        wire, socket, _ = recoverable(world)
        wire.drop()
        sockets.append(socket)
    assert list(world.server.members("/")) == sockets[1:]
    assert world.program.pop() == Forgotten(sockets[0], "/")


def test_nobody_pushes_out_the_lost_sockets_of_others() -> None:
    world = plain_world(recovery_timeout=1_000, max_lost_per_address=2)
    _, kept, _ = recoverable(world)
    for wire in list(world.wires.values()):
        wire.drop()
    lost = []
    for _ in range(4):
        wire = open_websocket(world, peer=Peer("192.0.2.1"))
        lost.append(join(wire))
        wire.drop()
    assert list(world.server.members("/")) == [kept, *lost[2:]]


def test_who_has_come_back_counts_for_the_address_it_came_from() -> None:
    world, wire, socket, pid = recovering(max_lost_per_address=1)
    wire.drop()
    again = open_websocket(world, peer=Peer("192.0.2.1"))
    again.send_text(f'40{{"pid":"{pid}"}}')
    assert sid_in_reply(again.texts()[0]) == socket
    again.drop()
    wire = open_websocket(world, peer=Peer("192.0.2.1"))
    other = join(wire)
    wire.drop()
    assert list(world.server.members("/")) == [other]


FORGED = "x" * 24


def forge(wire: Wire, pid: object, times: int) -> None:
    """Join with a pid and leave, again and again."""
    for _ in range(times):
        wire.send_text("40" + msgspec.json.encode({"pid": pid}).decode())
        wire.send_text("41")


def test_who_forges_pids_loses_the_connection() -> None:
    world, *_ = recovering()
    wire = open_websocket(world)
    forge(wire, FORGED, 4)
    assert len(wire.texts()) == 4
    wire.send_text(f'40{{"pid":"{FORGED}"}}')
    reply, goodbye, close = wire.frames()
    assert sid_in_reply(reply.text)
    assert goodbye.text == "41"
    assert close.opcode == 8


def test_the_program_is_not_asked_by_one_that_forges() -> None:
    world = plain_world(
        recovery_timeout=1_000, program_decides_joins=True, guesses_per_connection=1
    )
    wire = open_websocket(world)
    wire.send_text(f'40{{"pid":"{FORGED}"}}')
    assert close_code(wire) == 1000
    (joining,) = world.program
    assert isinstance(joining, Joining)
    world.server.admit(joining.socket, world.now)
    assert len(world.program) == 1


@pytest.mark.parametrize("pid", ["", "x" * 23, "x" * 25, "x" * 23 + "!", 7, None, [FORGED]])
def test_what_cannot_be_a_pid_is_no_guess(pid: object) -> None:
    world, *_ = recovering()
    wire = open_websocket(world)
    forge(wire, pid, 9)
    assert len(wire.texts()) == 9
    assert wire.open


def test_a_pid_is_a_programs_own_where_there_is_no_recovery() -> None:
    wire = open_websocket(plain_world())
    forge(wire, FORGED, 9)
    assert len(wire.texts()) == 9


def test_a_right_pid_is_taken_whatever_its_neighbours_guess() -> None:
    world, wire, socket, pid = recovering(guesses_per_minute=3)
    wire.drop()
    crowd = Peer("192.0.2.1")
    for guesses in (1, 1, 1, 2, 2):
        guesser = open_websocket(world, peer=crowd)
        forge(guesser, FORGED, guesses)
        assert close_code(guesser) == (1000 if guesses == 2 else None)
    again = open_websocket(world, peer=crowd)
    again.send_text(f'40{{"pid":"{pid}"}}')
    assert sid_in_reply(again.texts()[0]) == socket


def test_two_come_back_with_one_pid_and_the_later_has_it() -> None:
    world, wire, socket, pid = recovering(max_lost_sockets=1)
    wire.send_text("40/a,")  # the connection's other namespace is lost with it
    world.program.clear()
    second, texts = back(world, pid)
    assert sid_in_reply(texts[0]) == socket
    assert not wire.open
    assert [type(output) for output in world.program] == [Disconnected, Disconnected, Connected]
    third, texts = back(world, pid)
    assert sid_in_reply(texts[0]) == socket
    assert not second.open
    assert third.open


def test_a_bad_offset_begins_anew_and_ends_what_was_kept() -> None:
    world, wire, socket, pid = recovering()
    world.server.emit(socket, "a", [], world.now)
    world.pump()
    name = offset_of(wire.texts()[0]).partition(".")[0]
    other, texts = back(world, pid, f"{name}.5")  # while the old connection seems alive
    assert sid_in_reply(texts[0]) != socket
    assert wire.open
    other.drop()
    wire.drop()
    _, texts = back(world, pid, f"{name}.5")
    assert sid_in_reply(texts[0]) != socket
    assert socket not in world.server.members("/")
    _, texts = back(world, pid, f"{name}.1")
    assert sid_in_reply(texts[0]) != socket


@pytest.mark.parametrize("case", ["unknown pid", "another namespace", "no recovery"])
def test_who_cannot_come_back_is_new(case: str) -> None:
    world, wire, socket, pid = recovering(recovery_timeout=None if case == "no recovery" else 1_000)
    wire.drop()
    namespace = "/a," if case == "another namespace" else ""
    _, texts = back(world, "x" if case == "unknown pid" else pid, "", namespace)
    assert f'"sid":"{socket}"' not in texts[0]


def test_at_the_servers_end_nobody_will_come_back() -> None:
    world, wire, socket, _ = recovering()
    wire.drop()
    world.server.shut_down(world.now)
    world.pump()
    assert world.program.pop() == Forgotten(socket, "/")
    assert world.server.next_timeout() is None


# -- acknowledgements ------------------------------------------------------------------------------


def test_an_acknowledgement_in_time_late_and_never() -> None:
    world = plain_world(outbox_bytes=100)
    wire = open_websocket(world)
    socket = join(wire)
    for _ in range(2):
        world.server.emit(socket, "a", [], world.now, want_ack=True, ack_timeout=50)
    wire.send_text("430[]")
    world.advance(50)
    wire.send_text("431[]")
    wire.room = 0
    for _ in range(2):  # the second is too much
        world.server.emit(socket, "a", ["x" * 80], world.now, want_ack=True, ack_timeout=50)
        world.pump()
    world.advance(100)
    assert list(world.program)[1:] == [
        Acknowledged(socket, 0, ()),
        AckFailed(socket, 1, "timeout"),
        AckFailed(socket, 2, "disconnected"),
        AckFailed(socket, 3, "disconnected"),
        Disconnected(socket, "/", "slow consumer"),
    ]


# -- rooms -----------------------------------------------------------------------------------------


def test_who_hears_a_broadcast() -> None:
    world = plain_world(namespaces=("/", "/a"))
    wires = [open_websocket(world) for _ in range(3)]
    sockets = [join(wire) for wire in wires]
    elsewhere = join(wires[0], "/a")
    for socket in sockets[:2]:
        world.server.join(socket, "r")
    world.server.broadcast("/", "one", [], world.now, exclude=("r", "nobody"))
    world.server.broadcast("/", "two", [], world.now, rooms=("r", sockets[0], elsewhere))
    world.server.broadcast("/", "nobody", [], world.now, rooms=("nobody",))
    world.server.leave(sockets[0], "r")
    world.server.broadcast("/", "three", [], world.now, rooms=["r"])
    world.pump()
    assert [wire.texts() for wire in wires] == [
        ['42["two"]'], ['42["two"]', '42["three"]'], ['42["one"]'],
    ]  # fmt: skip


def test_nobody_is_put_into_another_sockets_own_room() -> None:
    world = plain_world()
    wires = [open_websocket(world) for _ in range(2)]
    first, second = map(join, wires)
    world.server.join(first, first)
    with pytest.raises(LocalProtocolError, match="another socket"):
        world.server.join(first, second)
    world.server.broadcast("/", "psst", [], world.now, rooms=(second,))
    world.pump()
    assert [wire.texts() for wire in wires] == [[], ['42["psst"]']]


def test_a_socket_of_the_ai_protocol_is_not_the_programs() -> None:
    world = World()
    wire = open_websocket(world)
    wire.send_text("40/ai,")
    reply = wire.texts()[0]
    with pytest.raises(LocalProtocolError, match="no such socket"):
        world.server.emit(sid_in_reply("40" + reply[6:]), "a", [], world.now)
    assert world.server.members("/ai") == ()


def test_the_program_takes_sockets_out() -> None:
    world = plain_world()
    wires = [open_websocket(world) for _ in range(2)]
    first, second = map(join, wires)
    world.server.disconnect(first, world.now)
    world.server.disconnect(second, world.now, close=True)
    world.pump()
    assert [len(wire.frames()) for wire in wires] == [1, 2]
    assert world.server.members("/") == ()


def test_what_is_kept_for_who_may_return_is_held() -> None:
    world = new_world(recovery_timeout=1_000)
    wire = open_websocket(world)
    socket = join(wire, "/")
    empty = world.server.stats().bytes_held
    world.server.emit(socket, "news", ["x" * 1_000], world.now)
    waiting = world.server.stats().bytes_held
    assert waiting - empty > 2_000  # in the outbox, and in the journal
    world.pump()
    assert empty + 1_000 < world.server.stats().bytes_held < waiting
    wire.drop()
    world.advance(1_000)
    assert world.server.stats().bytes_held == empty == 0
