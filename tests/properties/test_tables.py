"""Every state of the server's side, and in it every input that there is.

Rules of this file: tables, states and inputs are looked up in the code. A new state without a way
to come to it here, and a new argument without samples, fail.
"""

import enum
import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import tokenwire
from core.costs import untraced
from properties.attack import reached
from properties.mutations import (
    AI_EVENTS,
    CONNECTS,
    ENGINE_PACKETS,
    EVENTS,
    MODEL_LINES,
    OF_SESSION,
    POLLING,
    PROBING,
    REQUESTS,
    SID,
    UPGRADE,
    WEBSOCKET,
    frame,
    request,
)
from properties.passing import passing
from tokenwire.ai.stream import State as StreamState
from tokenwire.ai.stream import Stream
from tokenwire.config import Config
from tokenwire.engineio.session import EngineSession
from tokenwire.engineio.session import State as SessionState
from tokenwire.errors import LocalProtocolError
from tokenwire.http.connection import HttpConnection, Phase
from tokenwire.outputs import Connected
from tokenwire.server import Server
from tokenwire.testing import Wire, World
from tokenwire.timers import Timer
from tokenwire.types import ConnId, Peer, Response, StreamId
from tokenwire.wire import json

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(tokenwire.__path__, "tokenwire.")
]


def enums(module: ModuleType, name: str) -> list[type[enum.Enum]]:
    """Return the enum of this name that a module defines, if it does."""
    found = vars(module).get(name)
    if (
        isinstance(found, type)
        and issubclass(found, enum.Enum)
        and found.__module__ == module.__name__
    ):
        return [found]
    return []


# -- tables ----------------------------------------------------------------------------------------

TABLES = [module for module in MODULES if hasattr(module, "TRANSITIONS") and enums(module, "State")]


def test_there_are_tables() -> None:
    assert len(TABLES) >= 2


@pytest.mark.parametrize("module", TABLES, ids=lambda module: module.__name__)
def test_a_table_is_attacked_with_every_pair(module: ModuleType) -> None:
    (mover,) = [
        found
        for found in vars(module).values()
        if inspect.isclass(found) and found.__module__ == module.__name__ and hasattr(found, "move")
    ]
    for state, what in itertools.product(module.State, module.Input):
        thing: Any = object.__new__(mover)
        thing.state = state
        if (state, what) in module.TRANSITIONS:
            thing.move(what)
            assert thing.state is module.TRANSITIONS[state, what]
            assert isinstance(thing.state, module.State)
        else:
            with pytest.raises(KeyError):
                thing.move(what)
            assert thing.state is state


@pytest.mark.parametrize("module", TABLES, ids=lambda module: module.__name__)
def test_a_table_leads_from_its_first_state_to_all_and_from_all_to_an_end(
    module: ModuleType,
) -> None:
    after = {state: {state} for state in module.State}
    for _ in module.State:
        for (state, _what), following in module.TRANSITIONS.items():
            for known in after.values():
                if state in known:
                    known.add(following)
    ends = {state for state in module.State if after[state] == {state}}
    assert ends
    assert after[next(iter(module.State))] == set(module.State)
    assert all(known & ends for known in after.values())


# -- situations ------------------------------------------------------------------------------------

CONFIG = Config(
    namespaces=("/", "/x"),
    allowed_models=("*",),
    max_payload=2_000,
    recovery_timeout=5_000,
    stream_timeout=50_000,
    upstream_probe_interval=100_000,
)
OVER = 200_000
"""Longer than every span of the configuration, in ms."""


class Scene:
    """A server in some state, and who is there."""

    def __init__(self) -> None:
        self.world = World(CONFIG)
        self.world.offered = ["codellama"]
        self.world.advance(0)
        self.wires: list[Wire] = []
        self.sid = SID

    def wire(self, *data: bytes, room: int | None = None) -> Wire:
        """Open a socket and send on it."""
        wire = self.world.connect()
        wire.room = room
        self.wires.append(wire)
        for piece in data:
            self.send(wire, piece)
        return wire

    def send(self, wire: Wire, data: bytes) -> None:
        wire.send(data.replace(SID, self.sid))

    def polling(self) -> None:
        """Open a session over polling, and join `/`."""
        wire = self.wire(request(b"GET", POLLING))
        self.sid = wire.received[wire.received.index(b'"sid":"') + 7 :][:20]
        self.wire(request(b"POST", OF_SESSION, body=b"40"))
        self.send(self.wires[-1], request(b"GET", OF_SESSION))

    def streaming(self) -> None:
        """Open a session over WebSocket, and start a stream."""
        self.wire(request(b"GET", WEBSOCKET, UPGRADE), frame(b"40/ai,"))
        self.send(self.wires[-1], frame(b'42/ai,["ai:stream",{"prompt":"p","streamId":"s"}]'))

    def sockets(self) -> list[str]:
        return [output.socket for output in self.world.program if isinstance(output, Connected)]


def in_head(scene: Scene) -> None:
    scene.wire(b"GET /x HT")


def in_body(scene: Scene) -> None:
    scene.polling()
    scene.wire(request(b"POST", OF_SESSION, body=b"40/x,")[:-2])


def waits_for_answers(scene: Scene) -> None:
    scene.wire(request(b"GET", b"/x"))
    scene.polling()
    scene.wire(request(b"GET", OF_SESSION))


def drains(scene: Scene) -> None:
    scene.wire(request(b"POST", b"/x", b"Content-Length: 3000\r\n"))


def upgraded(scene: Scene) -> None:
    scene.wire(request(b"GET", WEBSOCKET, UPGRADE), frame(b"40"), frame(b"40/x,"))
    scene.send(scene.wires[-1], frame(b"4", fin=False))


def is_over(scene: Scene) -> None:
    scene.wire(b"\x16", room=0)


def probes(scene: Scene) -> None:
    scene.polling()
    scene.wire(request(b"GET", OF_SESSION))
    scene.wire(request(b"GET", PROBING, UPGRADE), frame(b"2probe"))


def moved(scene: Scene) -> None:
    probes(scene)
    scene.send(scene.wires[-1], frame(b"5"))


def closing(scene: Scene) -> None:
    scene.polling()
    scene.world.server.disconnect(scene.sockets()[0], scene.world.now, close=True)
    scene.world.pump()


def closed(scene: Scene) -> None:
    closing(scene)
    scene.wire(request(b"GET", OF_SESSION))


def says(scene: Scene) -> None:
    scene.streaming()
    scene.world.models[-1].say("one")


def done(scene: Scene) -> None:
    says(scene)
    scene.world.models[-1].done()


def cancelled(scene: Scene) -> None:
    says(scene)
    scene.send(scene.wires[-1], frame(b'42/ai,["ai:cancel",{"streamId":"s"}]'))


def failed(scene: Scene) -> None:
    says(scene)
    scene.world.models[-1].fail(reached=True)


def assembles(scene: Scene) -> None:
    upgraded(scene)
    scene.wires.pop().drop()
    scene.wire(request(b"GET", WEBSOCKET, UPGRADE), frame(b"40"))
    scene.send(scene.wires[-1], frame(b'451-["message",{"_placeholder":true,"num":0}]'))


def pauses(scene: Scene) -> None:
    scene.streaming()
    scene.wires[-1].unblock(0)
    scene.world.models[-1].say(*["word"] * 200)


def shuts_down(scene: Scene) -> None:
    says(scene)
    scene.world.server.shut_down(scene.world.now)
    scene.world.pump()


SITUATIONS: dict[enum.Enum | str, Callable[[Scene], None]] = {
    Phase.HEAD: in_head,
    Phase.BODY: in_body,
    Phase.ANSWER: waits_for_answers,
    Phase.DRAIN: drains,
    Phase.UPGRADED: upgraded,
    Phase.OVER: is_over,
    SessionState.POLLING: Scene.polling,
    SessionState.UPGRADING: probes,
    SessionState.WEBSOCKET: moved,
    SessionState.CLOSING: closing,
    SessionState.CLOSED: closed,
    StreamState.WAITING: Scene.streaming,
    StreamState.STREAMING: says,
    StreamState.DONE: done,
    StreamState.CANCELLED: cancelled,
    StreamState.FAILED: failed,
    "attachments are to come": assembles,
    "the model is paused": pauses,
    "the server shuts down": shuts_down,
    "nobody is there": lambda scene: None,
}
CLIENTS_SIDE = ("tokenwire.client", "tokenwire.http.client", "tokenwire.http.exchange")


def test_there_is_a_situation_for_each_state() -> None:
    states = [
        state
        for module in MODULES
        if not module.__name__.startswith(CLIENTS_SIDE)
        for name in ("State", "Phase")
        for found in enums(module, name)
        for state in found
    ]
    assert {state for state in SITUATIONS if not isinstance(state, str)} == set(states)


@pytest.mark.parametrize("state", [state for state in SITUATIONS if not isinstance(state, str)])
def test_a_situation_is_what_it_is_called(state: enum.Enum) -> None:
    scene = Scene()
    SITUATIONS[state](scene)
    found = [
        item.phase if isinstance(item, HttpConnection) else item.state
        for item in reached(scene.world.server)
        if isinstance(item, HttpConnection | EngineSession | Stream)
    ]
    assert (state in found) is (state is not SessionState.CLOSED)  # of which nothing is kept


# -- inputs ----------------------------------------------------------------------------------------

BYTES = (
    *(b"", b"\r\n", b"\x00", b"GET ", *REQUESTS, *map(frame, ENGINE_PACKETS)),
    *(frame(b"x", opcode) for opcode in range(16)),
    *(frame(b"", opcode, fin=False) for opcode in (0, 1, 2, 8)),
    *(b"".join([frame(b"4" + text), *(frame(part, 2) for part in rest)]) for text, *rest in EVENTS),
    *(frame(b"4" + text) for (text,) in CONNECTS),
    *(frame(b"42/ai,1" + json.encode([name, fields])) for name, fields in AI_EVENTS),
)
"""What may come on a socket, whatever was there before."""

SAMPLES: dict[str, Callable[[Scene], tuple[object, ...]]] = {
    "now": lambda scene: (scene.world.now,),
    "conn": lambda scene: (*[*scene.world.wires][-2:], ConnId(10**6)),
    "peer": lambda scene: (Peer(), Peer("::1", 9)),
    "max_bytes": lambda scene: (0, 1, 10**6),
    "response": lambda scene: (Response(200, (), b"x"), Response(204), Response(99)),
    "stream": lambda scene: (*(model.stream for model in scene.world.models), StreamId(10**6)),
    "status": lambda scene: (200, 404, 503),
    "body": lambda scene: (b"", b"{", MODEL_LINES[-1]),
    "reached": lambda scene: (True, False),
    "socket": lambda scene: (*scene.sockets(), "none"),
    "session": lambda scene: (scene.sid.decode(), "none"),
    "namespace": lambda scene: ("/", "/x", "/ai", "/none"),
    "room": lambda scene: ("r",),
    "name": lambda scene: ("e", 1, "connect"),
    "args": lambda scene: ([], [b"x", {"y": [b"z"]}], [object()]),
    "ack_id": lambda scene: (0, 7),
    "message": lambda scene: ("no",),
    "rooms": lambda scene: (["r"], []),
    "exclude": lambda scene: (["none"],),
    "want_ack": lambda scene: (True,),
    "ack_timeout": lambda scene: (1, 0),
    "volatile": lambda scene: (True,),
    "close": lambda scene: (True,),
}
DATA: dict[str, tuple[object, ...]] = {
    "receive_data": BYTES,
    "receive_upstream": (b"", b"\n", b"{", *MODEL_LINES),
    "send": ("text", b"bytes"),
    "refuse": ({"a": 1}, {"a": b"x"}),
}
MESSAGE_DOOR = (
    *("receive_request", "receive_message", "response_to_send", "messages_to_send", "close_code"),
)
"""What a Server, whose requests and messages come out of bytes, calls itself."""

METHODS = {
    name: method
    for name, method in inspect.getmembers(Server, inspect.isfunction)
    if not name.startswith("_") and name not in MESSAGE_DOOR
}


def samples(scene: Scene, method: str, argument: str) -> tuple[object, ...]:
    return DATA[method] if argument == "data" else SAMPLES[argument](scene)


class Call(NamedTuple):
    method: str
    args: tuple[object, ...]
    options: dict[str, object]


def calls(scene: Scene) -> Iterator[Call]:
    """Yield calls: each sample of a first argument, and with it each of another, one at a time."""
    for name, method in METHODS.items():
        _, *arguments = inspect.signature(method).parameters.values()
        pools = {item.name: samples(scene, name, item.name) for item in arguments}
        positional = [item.name for item in arguments if item.kind is not item.KEYWORD_ONLY]
        usual = {item.name: pools[item.name][0] for item in arguments if item.default is item.empty}
        if not arguments:
            yield Call(name, (), {})
            continue
        first, *others = pools
        for value in pools[first]:
            yield _call(name, positional, {**usual, first: value})
            for other in others:
                for another in pools[other][other in usual :]:  # its first one was above
                    yield _call(name, positional, {**usual, first: value, other: another})


def _call(name: str, positional: list[str], given: dict[str, object]) -> Call:
    """Return a call; options stand at its end, so that none is left out before another."""
    args = tuple(given.pop(item) for item in positional if item in given)
    return Call(name, args, given)


def play(situation: Callable[[Scene], None], call: Call) -> None:
    """Come to a situation, do one thing, and let all end."""
    scene = Scene()
    situation(scene)
    world = scene.world
    name, args, options = call
    args = tuple(item.replace(SID, scene.sid) if isinstance(item, bytes) else item for item in args)
    try:
        METHODS[name](world.server, *args, **options)
    except LocalProtocolError:  # the program's own fault
        assert name != "receive_data" or args[0] not in world.wires
    world.pump()
    world.advance(1_000)
    for wire in list(world.wires.values()):
        wire.drop()
    world.advance(OVER)
    deadline = world.server.next_timeout()
    assert deadline is None or deadline.reason == Timer.UPSTREAM_PROBE.value
    stats = world.server.stats()
    assert (stats.total_sessions, stats.total_active_streams, stats.bytes_held) == (0, 0, 0)


@pytest.mark.parametrize("state", SITUATIONS, ids=str)
def test_every_input_in_a_situation_comes_to_its_end(state: enum.Enum | str) -> None:
    scene = Scene()
    SITUATIONS[state](scene)
    found = list(calls(scene))
    assert {call.method for call in found} == set(METHODS)
    with untraced():
        for call in found:
            try:
                play(SITUATIONS[state], call)
            except Exception as error:
                raise AssertionError(f"{state}: {call}") from error


@pytest.mark.parametrize("state", SITUATIONS, ids=str)
def test_every_deadline_of_a_situation_can_come(state: enum.Enum | str) -> None:
    scene = Scene()
    SITUATIONS[state](scene)
    assert len(list(passing(scene.world, OVER))) >= 2  # the model server is looked at
