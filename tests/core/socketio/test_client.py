"""Socket.IO clients, from frames to frames, in a virtual world.

Rules of this file: one WebSocket for each client. What a handler in the core could do beyond what
the program's namespaces do is shown with a namespace of the test's own.
"""

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
from tokenwire.outputs import Abort, Acknowledged, Connected, Disconnected, Event
from tokenwire.socketio.binary import encode_body
from tokenwire.socketio.socket import Socket
from tokenwire.testing import Wire, World
from tokenwire.types import Millis


def setting(*namespaces: str, **changes: object) -> tuple[World, Wire]:
    world = plain_world(namespaces=("/", "/custom"), **changes)
    wire = open_websocket(world)
    for namespace in namespaces:
        join(wire, namespace)
    world.program.clear()
    return world, wire


def events(world: World) -> list[tuple[str, str | int, tuple[object, ...], int | None]]:
    return [
        (output.namespace, output.name, output.args, output.ack_id)
        for output in world.program
        if isinstance(output, Event)
    ]


class Handler:
    """A namespace that keeps its sockets, and may refuse."""

    recovers = False

    def __init__(self, refusal: dict[str, object] | None = None) -> None:
        self.refusal = refusal
        self.sockets: list[Socket] = []
        self.said: list[str] = []

    def connect(self, socket: Socket, auth: object, now: Millis) -> dict[str, object] | None:
        return self.refusal

    def connected(self, socket: Socket, auth: object, now: Millis, *, recovered: bool) -> None:
        self.sockets.append(socket)
        self.said.append("connected")

    def event(
        self, socket: Socket, name: str | int, args: list[object], ack_id: int | None, now: Millis
    ) -> None:
        self.said.append(f"event {name}")
        if ack_id is not None:
            socket.acknowledge(ack_id, encode_body(args, 10), now)

    def acknowledged(self, socket: Socket, ack_id: int, args: list[object]) -> None:
        self.said.append(f"ack {ack_id}")

    def recover(self, name: str, auth: object, now: Millis) -> None:
        return None

    def admit(self, socket: Socket, auth: object) -> None:
        return None

    def received(self, socket: Socket) -> None:
        self.said.append("received")

    def disconnected(self, socket: Socket, reason: str, now: Millis, *, may_return: bool) -> None:
        self.said.append(f"disconnected {reason}")


def handled(handler: Handler, **changes: object) -> tuple[World, Wire, Socket]:
    world, wire = setting(**changes)
    world.server._sockets.add_namespace("/own", handler)
    join(wire, "/own")
    return world, wire, handler.sockets[-1]


# -- CONNECT ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "namespace", "auth"),
    [
        ("40", "/", {}),
        ('40{"token":"x"}', "/", {"token": "x"}),
        ("40/custom", "/custom", {}),
        ("40/custom,", "/custom", {}),
        ('40/custom,{"a":[1]}', "/custom", {"a": [1]}),
    ],
)
def test_a_client_joins_a_namespace(packet: str, namespace: str, auth: object) -> None:
    world, wire = setting()
    wire.send_text(packet)
    (reply,) = wire.texts()
    assert reply.startswith("40{" if namespace == "/" else "40/custom,{")
    (connected,) = world.program
    assert connected == Connected(sid_in_reply(reply), namespace, auth)


@pytest.mark.parametrize("name", ["/random", "/custom?token=1", "/customs", "/Custom", "/é"])
def test_a_namespace_that_is_not_there_is_refused_and_the_connection_lives(name: str) -> None:
    _, wire = setting()
    wire.send_text(f"40{name},")
    assert wire.texts() == [f'44{name},{{"message":"Invalid namespace"}}']
    assert join(wire, "/custom")


def test_a_namespace_may_refuse_with_an_object() -> None:
    world, wire = setting()
    world.server._sockets.add_namespace("/own", Handler({"message": "no", "data": {"code": 1}}))
    wire.send_text("40/own,")
    assert wire.texts() == ['44/own,{"message":"no","data":{"code":1}}']
    world.advance(45_000)
    assert close_code(wire) == 1000


@pytest.mark.parametrize("refused", [False, True])
def test_who_joins_nothing_in_time_is_closed(refused: bool) -> None:
    world, wire = setting(heartbeat_interval=1_000_000)
    if refused:
        wire.send_text("40/random,")
    world.advance(44_999)
    assert close_code(wire) is None
    world.advance(1)
    assert close_code(wire) == 1000


def test_who_has_joined_stays() -> None:
    world, wire = setting("/", heartbeat_interval=1_000_000)
    wire.send_text("41")
    world.advance(100_000)
    assert wire.open
    assert close_code(wire) is None


# -- events and acknowledgements -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "event"),
    [
        (['42["a"]'], ("/", "a", (), None)),
        (['42["a",1,"2",{"3":[null]}]'], ("/", "a", (1, "2", {"3": [None]}), None)),
        (["42[5]"], ("/", 5, (), None)),
        (['42/custom,["a"]'], ("/custom", "a", (), None)),
        (['420["a"]'], ("/", "a", (), 0)),
        (['42/custom,17["a",1]'], ("/custom", "a", (1,), 17)),
        (['42["a",{"_placeholder":true,"num":0}]'],
         ("/", "a", ({"_placeholder": True, "num": 0},), None)),
        (['451-["a",{"_placeholder":true,"num":0}]', b"\x01"], ("/", "a", (b"\x01",), None)),
        (['452-/custom,3["a",{"_placeholder":true,"num":1},{"b":{"_placeholder":true,"num":0}}]',
          b"\x01", b""], ("/custom", "a", (b"", {"b": b"\x01"}), 3)),
    ],
)  # fmt: skip
def test_an_event_reaches_the_program(frames: list[str | bytes], event: object) -> None:
    world, wire = setting("/", "/custom")
    send(wire, frames)
    assert events(world) == [event]
    assert wire.open


def send(wire: Wire, frames: list[str | bytes]) -> None:
    for frame in frames:
        if isinstance(frame, str):
            wire.send_text(frame)
        else:
            wire.send_frame(frame, 2)


@pytest.mark.parametrize(
    ("name", "args", "frames"),
    [
        ("a", [], [b'42["a"]']),
        (5, [1, None], [b"42[5,1,null]"]),
        ("a", [b"\x01", {"b": b"\x02"}],
         [b'452-["a",{"_placeholder":true,"num":0},{"b":{"_placeholder":true,"num":1}}]',
          b"\x01", b"\x02"]),
    ],
)  # fmt: skip
def test_the_program_emits(name: str | int, args: list[object], frames: list[bytes]) -> None:
    world, wire = setting()
    socket = join(wire)
    assert world.server.emit(socket, name, args, world.now) is None
    world.pump()
    assert [frame.payload for frame in wire.frames()] == frames


def test_the_program_acknowledges() -> None:
    world, wire = setting()
    socket = join(wire, "/custom")
    answers: list[list[object]] = [[], [None], ["x", 1], [b"\x01"]]
    for args in answers:
        world.server.acknowledge(socket, 12, args, world.now)
    world.pump()
    assert [frame.payload for frame in wire.frames()] == [
        b"43/custom,12[]",
        b"43/custom,12[null]",
        b'43/custom,12["x",1]',
        b'461-/custom,12[{"_placeholder":true,"num":0}]',
        b"\x01",
    ]


def test_a_client_acknowledges_once() -> None:
    world, wire = setting()
    socket = join(wire, "/custom")
    world.program.clear()
    ids = [world.server.emit(socket, "a", [], world.now, want_ack=True) for _ in range(2)]
    assert ids == [0, 1]
    world.pump()
    assert wire.texts() == ['42/custom,0["a"]', '42/custom,1["a"]']
    wire.send_text('43/custom,1["ok"]')
    send(wire, ['461-/custom,0[{"_placeholder":true,"num":0}]', b"\x01"])
    wire.send_text("43/custom,1[]")
    wire.send_text("43/custom,99[]")
    assert list(world.program) == [
        Acknowledged(socket, 1, ("ok",)),
        Acknowledged(socket, 0, (b"\x01",)),
    ]
    assert wire.open


def test_acknowledgements_belong_to_their_namespace() -> None:
    world, wire = setting()
    socket = join(wire)
    join(wire, "/custom")
    world.program.clear()
    world.server.emit(socket, "a", [], world.now, want_ack=True)
    wire.send_text("43/custom,0[]")
    assert not world.program
    wire.send_text("430[]")
    assert list(world.program) == [Acknowledged(socket, 0, ())]


# -- misuse ----------------------------------------------------------------------------------------

MISUSE: dict[str, list[str | bytes]] = {
    "a second CONNECT": ["40"],
    "a second CONNECT to another": ["40/custom,"],
    "an event for what was not joined": ['42/own,["a"]'],
    "an ack for what was not joined": ["43/own,0[]"],
    "a DISCONNECT of what was not joined": ["41/own,"],
    "a binary event for what was not joined": ['451-/own,["a",{"_placeholder":true,"num":0}]'],
    "a CONNECT_ERROR": ['44{"message":"x"}'],
    "a CONNECT_ERROR of what was not joined": ['44/own,"x"'],
    "a DISCONNECT with a payload": ["41{}"],
    "a CONNECT with an array": ["40/own,[]"],
    "a CONNECT with null": ["40/own,null"],
    "a CONNECT with a string": ['40/own,"x"'],
    "a reserved name": ['42["connect"]'],
    "a reserved name in binary": ['451-["disconnect",{"_placeholder":true,"num":0}]'],
    "an object as a name": ['42[{"toString":"x"}]'],
    "an array as a name": ['42[["a"]]'],
    "no name": ["42[]"],
    "type 7": ["47"],
    "type 9": ["49"],
    "no type": ["4"],
    "text between attachments": ['452-["a",{"_placeholder":true,"num":0},1]', b"\x01", '42["b"]'],
    "stray binary": [b"\x01"],
    "binary after the last attachment": ['451-["a",{"_placeholder":true,"num":0}]', b"1", b"2"],
    "a placeholder out of range": ['451-["a",{"_placeholder":true,"num":1}]', b"\x01"],
    "no count": ['45-["a"]'],
    "no dash": ['45["a"]'],
    "11 attachments": ['4511-["a"]'],
    "0 attachments": ['450-["a"]'],
    "1e1 attachments": ['451e1-["a"]'],
    "5 5": ['45 5-["a"]'],
    "broken JSON": ['42["a"'],
    "a key twice": ['42["a",{"b":1,"b":2}]'],
    "a huge integer": ['42["a",9007199254740993]'],
    "an unknown Engine.IO type": ["8"],
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_closes_the_whole_connection_and_nobody_else_notices(name: str) -> None:
    world, wire = setting()
    mine = {join(wire), join(wire, "/custom")}
    other = open_websocket(world)
    others = join(other)
    world.program.clear()
    send(wire, MISUSE[name])
    assert close_code(wire) == 1002
    assert wire.ended or world.wires
    left = [output for output in world.program if isinstance(output, Disconnected)]
    assert {(output.socket, output.reason) for output in left} == {(s, "parse error") for s in mine}
    world.server.emit(others, "still there", [], world.now)
    world.pump()
    assert other.texts() == ['42["still there"]']
    # What had not been whole is gone with the connection.
    before = len(world.program)
    wire.send_frame(b"\x01", 2)
    wire.send_text('42["late"]')
    assert len(world.program) == before


def test_events_before_the_misuse_are_delivered() -> None:
    world, wire = setting("/")
    wire.send_text('42["a"]')
    wire.send_text("47")
    assert [event[1] for event in events(world)] == ["a"]


def test_attachments_that_are_too_large_together_are_1009() -> None:
    _, wire = setting("/", max_payload=300)
    placeholders = ",".join(f'{{"_placeholder":true,"num":{number}}}' for number in range(2))
    send(wire, [f'452-["a",{placeholders}]', b"x" * 200, b"y" * 101])
    assert close_code(wire) == 1009


# -- DISCONNECT ------------------------------------------------------------------------------------


@pytest.mark.parametrize("packet", ["41/custom", "41/custom,"])
def test_a_client_leaves_one_namespace(packet: str) -> None:
    world, wire = setting("/")
    socket = join(wire, "/custom")
    world.program.clear()
    wire.send_text(packet)
    assert list(world.program) == [Disconnected(socket, "/custom", "client namespace disconnect")]
    wire.send_text('42["still here"]')
    assert len(events(world)) == 1
    assert join(wire, "/custom") != socket


def test_the_server_takes_a_client_out_of_one_namespace() -> None:
    world, wire = setting("/")
    socket = join(wire, "/custom")
    world.program.clear()
    world.server.disconnect(socket, world.now)
    world.pump()
    assert wire.texts() == ["41/custom,"]
    assert list(world.program) == [Disconnected(socket, "/custom", "server namespace disconnect")]
    wire.send_text('42["still here"]')
    assert len(events(world)) == 1


def test_the_server_closes_all_of_a_client() -> None:
    world, wire = setting("/")
    world.server.disconnect(join(wire, "/custom"), world.now, close=True)
    world.pump()
    assert [frame.payload for frame in wire.frames()] == [b"41", b"41/custom,", b"\x03\xe8"]
    reasons = [output.reason for output in world.program if isinstance(output, Disconnected)]
    assert reasons == ["server namespace disconnect"] * 2


# -- what waits ------------------------------------------------------------------------------------


def test_one_large_packet_may_wait_but_nothing_behind_it() -> None:
    world, wire = setting(outbox_bytes=100)
    socket = join(wire)
    wire.room = 0
    world.server.emit(socket, "a", ["x" * 500], world.now)
    world.pump()
    wire.unblock()
    assert len(wire.texts()) == 1
    wire.room = 0
    world.server.emit(socket, "a", ["x" * 500], world.now)
    world.pump()
    world.server.emit(socket, "a", [], world.now)
    world.pump()
    assert wire.aborted
    assert not world.wires


def test_the_limit_counts_what_waits_now() -> None:
    world, wire = setting(outbox_bytes=100)
    socket = join(wire)
    for _ in range(50):
        world.server.emit(socket, "a", ["x" * 60], world.now)
        world.pump()
    assert len(wire.texts()) == 50


def test_a_client_that_is_dropped_while_it_joins_has_joined_nothing() -> None:
    world, wire = setting(outbox_bytes=100)
    socket = join(wire)
    world.program.clear()
    wire.room = 0
    world.server.emit(socket, "a", ["x" * 80], world.now)
    world.pump()
    wire.send_text("40/custom,")
    assert list(world.program) == [Disconnected(socket, "/", "slow consumer")]


def test_a_client_that_is_dropped_while_it_is_disconnected_leaves_once() -> None:
    world, wire = setting(outbox_bytes=100)
    socket = join(wire)
    world.program.clear()
    wire.room = 0
    world.server.emit(socket, "a", ["x" * 200], world.now)
    world.pump()
    world.server.disconnect(socket, world.now)
    assert list(world.program) == []
    outputs = list(iter(world.server.poll, None))
    assert [output for output in outputs if isinstance(output, Disconnected)] == [
        Disconnected(socket, "/", "server namespace disconnect")
    ]
    assert sum(isinstance(output, Abort) for output in outputs) == 1


# -- handlers in the core --------------------------------------------------------------------------


class Tokens:
    """A source of streamed events."""

    def __init__(self) -> None:
        self.waiting = 0
        self.refusals = 0

    def has_events(self) -> bool:
        return self.waiting > 0

    def pull_events(self, out: list[bytes], budget: int, now: Millis) -> int:
        used = 0
        while self.waiting and used < budget:
            self.waiting -= 1
            used += 40
            out.append(b'2/own,["%s"]' % (b"t" * 30))
        return used

    def refused(self, now: Millis) -> None:
        self.refusals += 1


def test_a_source_is_pulled_as_there_is_room() -> None:
    world, wire, socket = handled(Handler())
    other = Handler()
    world.server._sockets.add_namespace("/other", other)
    join(wire, "/other")
    source, second = Tokens(), Tokens()
    socket.source, other.sockets[0].source = source, second
    source.waiting = second.waiting = 3
    assert socket.writable()
    wire.room = 50
    socket.wake()
    world.pump()
    assert source.waiting == 1
    assert second.waiting == 3
    assert source.refusals == second.refusals == 1
    assert not socket.writable()
    wire.unblock()
    assert source.waiting == second.waiting == 0
    assert len(wire.texts()) == 6


def test_a_poll_is_answered_when_a_source_has_events() -> None:
    handler = Handler()
    world = plain_world()
    world.server._sockets.add_namespace("/own", handler)
    client = Polling(world, {"User-Agent": "test/1"})
    client.join("/own,")
    (socket,) = handler.sockets
    assert socket.user_agent == "test/1"
    source = socket.source = Tokens()
    waiting = client.hanging()
    assert waiting.answer() is None
    waiting.drop()
    client = Polling(world)
    client.join("/own,")
    socket = handler.sockets[-1]
    assert socket.user_agent == ""
    source = socket.source = Tokens()
    source.waiting = 1
    answer = client.poll()
    assert answer is not None
    assert answer.body.startswith(b"42/own,")


def test_a_handler_sends_events_as_json_and_acknowledges() -> None:
    world, wire, socket = handled(handler := Handler())
    socket.send_event(b'["raw",1]', world.now)
    wire.send_text('42/own,5["a","b"]')
    assert wire.texts() == ['42/own,["raw",1]', '43/own,5["b"]']
    wire.drop()
    assert handler.said == ["connected", "event a", "disconnected transport close"]


def test_a_socket_that_is_gone_sends_nothing_and_leaves_once() -> None:
    world, wire, socket = handled(handler := Handler())
    wire.drop()
    socket.emit(encode_body(["late"], 10), world.now)
    socket.disconnect(world.now)
    socket.disconnect(world.now, close=True)
    assert world.server.poll() is None
    assert handler.said == ["connected", "disconnected transport close"]


# -- joins that wait, joins that return ------------------------------------------------------------


def test_a_connection_is_in_so_many_namespaces() -> None:
    world = plain_world(namespace_patterns=("/.",), max_namespaces=2)
    wire = open_websocket(world)
    join(wire, "/a")
    join(wire, "/b")
    wire.send_text("40/c,")
    assert wire.texts() == ['44/c,{"message":"Too many namespaces"}']
    wire.send_text("41/a,")
    assert join(wire, "/c")


def test_a_namespace_may_answer_later() -> None:
    world = plain_world(program_decides_joins=True, connect_timeout=1_000, max_namespaces=2)
    wire = open_websocket(world)
    wire.send_text("40")
    (first,) = asking(world)
    world.server.refuse(first, "no", world.now)
    world.pump()
    wire.send_text("40")
    world.server.admit(asking(world)[1], world.now)
    world.pump()
    assert [text[:2] for text in wire.texts()] == ["44", "40"]
    wire.send_text("41")
    wire.send_text("40")
    world.advance(1_000)
    assert wire.texts() == ['44{"message":"Connection timed out"}']


@pytest.mark.parametrize("packet", ["41", '42["a"]', '451-["a",{"_placeholder":true,"num":0}]'])
def test_a_packet_before_the_answer_is_a_violation(packet: str) -> None:
    world = plain_world(program_decides_joins=True)
    wire = open_websocket(world)
    wire.send_text("40")
    wire.send_text(packet)
    assert close_code(wire) == 1002
    world.server.admit(asking(world)[0], world.now)
    assert len(world.program) == 1


def test_a_second_connect_takes_the_place_of_one_that_waits() -> None:
    world = plain_world(program_decides_joins=True)
    wire = open_websocket(world)
    wire.send_text("40")
    wire.send_text("40")
    first, second = asking(world)
    world.server.admit(first, world.now)
    world.pump()
    assert wire.texts() == []
    world.server.admit(second, world.now)
    world.pump()
    assert sid_in_reply(wire.texts()[0]) == second


def test_a_connect_that_is_too_large_is_refused() -> None:
    world = plain_world(connect_bytes=100)
    wire = open_websocket(world)
    wire.send_text('40{"a":"%s"}' % ("x" * 92))
    assert wire.texts() == ['44{"message":"Payload too large"}']
    wire.send_text('40{"a":"%s"}' % ("x" * 91))
    assert wire.texts()[0].startswith("40{")


@pytest.mark.parametrize(
    "packets",
    [
        ["41/custom,"],
        ['42/custom,["a"]', "43/custom,0[]"],
        ['451-/custom,["a",{"_placeholder":true,"num":0}]', b"x", '42/custom,["a"]'],
    ],
)
def test_what_was_under_way_to_where_the_server_has_closed_is_dropped(
    packets: list[str | bytes],
) -> None:
    world = plain_world(namespaces=("/", "/custom"))
    wire = open_websocket(world)
    join(wire)
    world.server.disconnect(join(wire, "/custom"), world.now)
    world.pump()
    world.program.clear()
    for packet in packets:
        if isinstance(packet, bytes):
            wire.send_frame(packet, opcode=2)
        else:
            wire.send_text(packet)
    assert wire.texts() == ["41/custom,"]
    assert not world.program
    assert join(wire, "/custom")
    wire.send_text("41/custom,")
    wire.send_text('42/custom,["a"]')  # this one the client has left itself
    assert close_code(wire) == 1002


def test_so_many_namespaces_are_remembered_that_the_server_has_closed() -> None:
    world = plain_world(namespace_patterns=("/.",), max_namespaces=2)
    wire = open_websocket(world)
    for name in ("/a", "/b", "/c"):
        world.server.disconnect(join(wire, name), world.now)
        world.pump()
        wire.texts()
    wire.send_text('42/c,["a"]')
    wire.send_text('42/b,["a"]')
    assert close_code(wire) is None
    wire.send_text('42/a,["a"]')
    assert close_code(wire) == 1002


def test_a_client_comes_back_to_what_it_missed_however_much_that_is() -> None:
    world = plain_world(recovery_timeout=1_000, outbox_bytes=200)
    wire = open_websocket(world)
    wire.send_text("40")
    (reply,) = wire.texts()
    wire.drop()
    for _ in range(5):
        world.server.broadcast("/", "a", ["x" * 100], world.now)
    full = open_websocket(world)
    full.room = 0
    for name in ("/1", "/2", "/3"):  # refused, and nobody reads it
        full.send_text(f"40{name},")
    full.send_text(f"40{reply[2:]}")
    world.server.broadcast("/", "last", [], world.now)
    full.unblock()
    texts = full.texts()
    assert texts[3] == reply
    assert [text[:6] for text in texts[4:]] == ['42["a"'] * 5 + ['42["la']
    full.send_text("42[]")  # a violation
    again = open_websocket(world)
    again.send_text(f"40{reply[2:]}")
    assert sid_in_reply(again.texts()[0]) != sid_in_reply(reply)


def test_a_client_that_does_not_read_is_out_when_the_program_says_so() -> None:
    world = plain_world(recovery_timeout=1_000, outbox_bytes=50)
    wire = open_websocket(world)
    wire.send_text("40")
    (reply,) = wire.texts()
    socket = sid_in_reply(reply)
    wire.room = 0
    world.server.emit(socket, "a", ["x" * 50], world.now)
    world.pump()
    world.server.disconnect(socket, world.now)
    world.pump()
    assert not wire.open
    again = open_websocket(world)
    again.send_text(f"40{reply[2:]}")
    assert sid_in_reply(again.texts()[0]) != socket


def test_a_full_client_that_is_closed_is_dropped_once() -> None:
    world = plain_world(namespaces=("/", "/custom"), outbox_bytes=50)
    wire = open_websocket(world)
    sockets = [join(wire, name) for name in ("/", "/custom")]
    wire.room = 0
    world.server.emit(sockets[0], "a", ["x" * 50], world.now)
    world.pump()
    world.program.clear()
    world.server.disconnect(sockets[0], world.now, close=True)
    world.pump()
    assert list(world.program) == [
        Disconnected(sockets[0], "/", "server namespace disconnect"),
        Disconnected(sockets[1], "/custom", "server namespace disconnect"),
    ]
