"""One server, some attackers that send it mutated messages, two healthy clients beside them.

Rules of this file: a case is a list of steps, and a step is plain data: played again in a fresh
Attack, the steps of a case give the same case. The server is seen through its public doors alone;
what it holds is counted over all objects that it reaches, so that no container is forgotten.
"""

import contextlib
import enum
import functools
import gc
import random
from collections import Counter, deque
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import NamedTuple

from msgspec.structs import replace
from properties import mutations
from properties.mutations import (
    CLIENT_ID,
    OF_SESSION,
    PID,
    PROBING,
    SID,
    UPGRADE,
    Mutator,
    frame,
    request,
)
from properties.passing import passing
from tokenwire.buckets import Buckets
from tokenwire.config import Config
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import Acknowledged, Connected, Disconnected, Event, Joining, ProgramEvent
from tokenwire.server import Server
from tokenwire.testing import Wire, World
from tokenwire.testing.parse import Frame, take_frames
from tokenwire.testing.worldnet import NOT_FOUND
from tokenwire.timers import Timer
from tokenwire.types import Millis

ATTACKERS = 6
OLD_WIRES = 3
SETTLED = 200_000
"""Longer than every span of the configurations below, in ms."""

MOST_ENTRIES = 10_000
MOST_BYTES = 6_000_000
"""What a server may hold with all attackers there: ten times the most of many cases."""

_BASE = Config(
    namespaces=("/", "/x"),
    allowed_models=("*",),
    stream_timeout=60_000,
    first_token_timeout=50_000,
    log_bytes=8_000,
    messages_per_second=1_000_000,  # limits would keep the messages from what they are to reach
    message_burst=1_000_000,
    stream_starts_per_minute=1_000_000,
    joins_per_minute=1_000_000,
    takeovers_per_minute=1_000_000,
    guesses_per_minute=1_000_000,
    guesses_per_connection=1_000_000,
)
CONFIGS = (
    _BASE,
    replace(_BASE, trace=True),
    replace(
        _BASE,
        max_payload=2_000,
        header_bytes=1_500,
        target_bytes=300,
        read_ahead_bytes=1_000,
        outbox_bytes=4_000,
        max_fragments=4,
        max_packets_per_post=4,
        max_attachments=2,
        max_concurrent_streams=2,
        ended_streams_kept=2,
        ended_streams_in_doubt=3,
        upstream_line_bytes=1_000,
        messages_per_second=20,
        message_burst=40,
        stream_starts_per_minute=30,
        guesses_per_connection=5,
    ),
    replace(
        _BASE,
        allowed_models=("codellama", "llama3.2:1b"),
        takeovers_per_minute=2,
        guesses_per_minute=5,
        guesses_per_connection=3,
        heartbeat_interval=3_000,
        heartbeat_timeout=2_000,
        connect_timeout=4_000,
        upgrade_timeout=3_000,
        reconnect_timeout=5_000,
        recovery_timeout=5_000,
        recovery_bytes=1_000,
        max_namespaces=2,
    ),
    replace(
        _BASE,
        namespace_patterns=(r"/dyn-\d+",),
        namespace_chars=20,
        backpressure_policy="skip",
        backpressure_threshold=5,
        slow_consumer_timeout=2_000,
        program_decides_joins=True,
        recovery_timeout=5_000,
    ),
)
"""What a case may run with. Limits of every kind are near what the messages have."""


class Broken(AssertionError):
    """Something that must hold does not."""


class Do(enum.Enum):
    OPEN = "open"
    """A socket for an attacker; the one that it had stays, for a while."""
    SEND = "send"
    """Bytes from an attacker, `number` whole requests or 0: nobody knows how many."""
    EOF = "eof"
    LOSE = "lose"
    ROOM = "room"
    """The attacker's socket takes `number` more bytes; -1: all from now on."""
    WAIT = "wait"
    EMIT = "emit"
    """The program sends `number` bytes to everybody in its namespaces."""
    MODEL = "model"
    """The model server sends `data` for the stream `number` places before the latest."""
    MODEL_STATUS = "model status"
    MODEL_END = "model end"
    """The same stream's answer ends: `eof`, `broken` or `not reached`."""
    PROBED = "probed"
    """What the model server offers is answered by `data`."""
    HEALTHY = "healthy"
    """The healthy clients do something, and it is looked at."""
    STOP = "stop"
    """The server is shut down."""


class Role(enum.Enum):
    """What kind of messages an attacker sends."""

    HTTP = "http"
    POLLING = "polling"
    PROBE = "probe"
    FRAMES = "frames"
    ENGINE = "engine"
    SOCKET = "socket"
    AI = "ai"
    MODEL = "model"
    """It asks for streams, and the model server is who is out of order."""


WEIGHTS = {
    **dict.fromkeys(Role, 1),
    Role.POLLING: 2,
    Role.SOCKET: 3,
    Role.AI: 3,
    Role.MODEL: 2,
}
"""How often a role is played: more of those whose messages are looked at deepest."""

STREAM = frame(b'42/ai,["ai:stream",{"prompt":"p","think":true}]')


class Step(NamedTuple):
    do: Do
    who: int = 0
    data: bytes = b""
    number: int = 0

    def __repr__(self) -> str:
        return f"Step({self.do}, {self.who}, {self.data!r}, {self.number})"


class Reader:
    """What one socket was sent: HTTP responses, then perhaps frames, each of them whole."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []
        self.upgraded = False
        self.closed = False
        """True: a close frame has come."""
        self.sent = bytearray()
        self.asked: int | None = 0
        """How many requests were sent, if that is certain."""
        self._closing = False
        """True: the latest response said that it is the last."""

    def sends(self, data: bytes, requests: int) -> None:
        """These bytes go out now: so many whole requests, or none that is certain."""
        self.sent += data
        if requests and self.asked is not None:
            self.asked += requests
        elif not self.upgraded:
            self.asked = None

    def check_answers(self) -> None:
        """All is over that can wait: each request has its answer."""
        if self.asked is None or self.wire.aborted or self.upgraded or self._closing:
            return
        if len(self.statuses) < self.asked:
            raise Broken(f"{self.asked} requests got {len(self.statuses)} answers")

    def read(self) -> list[Frame]:
        """Read what has come. Return its frames."""
        wire = self.wire
        while wire.received and not self.upgraded and self._take_response():
            pass
        if not self.upgraded or not wire.received:
            return []
        frames, wire.received = take_frames(wire.received)
        for item in frames:
            if self.closed:
                raise Broken("a frame after a close frame")
            if item.opcode == 1:
                item.payload.decode()
            elif item.opcode == 8:
                self.closed = True
            elif item.opcode not in (2, 10):
                raise Broken(f"a frame with opcode {item.opcode}")
        return frames

    def _take_response(self) -> bool:
        data = self.wire.received
        head, separator, rest = data.partition(b"\r\n\r\n")
        if not separator:
            return False
        if head[:9] != b"HTTP/1.1 ":
            raise Broken(f"not a response: {head!r}")
        status = int(head[9:12])
        size = 0
        at = head.find(b"\r\ncontent-length: ")
        if at >= 0:
            size = int(head[at + 18 :].partition(b"\r")[0])
        if size and b"HEAD" in self.sent and (not rest or rest.startswith(b"HTTP/1.1 ")):
            size = 0
        if len(rest) < size:
            return False
        self.wire.received = rest[size:]
        if status == 101:
            self.upgraded = True
        if status != 100:
            self._closing = b"connection: close" in head.lower()
            self.statuses.append(status)
            self.bodies.append(rest[:size])
            # A head has one answer, and what is no head has one and is the last.
            if len(self.statuses) > self.sent.count(b"\r\n\r\n") + 1:
                raise Broken("more answers than requests")
        return not self.upgraded


class Attacker:
    """What one attacker knows."""

    def __init__(self) -> None:
        self.reader: Reader | None = None
        self.old: list[Reader] = []
        self.sid = SID
        self.client_id = CLIENT_ID
        self.pid = PID

    @property
    def open(self) -> bool:
        return self.reader is not None and self.reader.wire.open

    def named(self, data: bytes) -> bytes:
        """Put the names that it knows into their places."""
        data = data.replace(SID, self.sid).replace(CLIENT_ID, self.client_id)
        return data.replace(PID, self.pid)

    def learn(self) -> None:
        """Read what has come, and remember the names in it."""
        assert self.reader is not None
        frames = self.reader.read()
        texts = [item.payload for item in frames]
        if self.reader.bodies:
            texts.append(self.reader.bodies[-1])
        for text in texts:
            if text.startswith(b'0{"sid":"'):
                self.sid = text[9:29]
            elif b'"ai:connected"' in text:
                at = text.find(b'"clientId":"') + 12
                self.client_id = text[at : at + 45]
            elif text.startswith(b"40{") and b'"pid":"' in text:
                at = text.find(b'"pid":"') + 7
                self.pid = text[at : at + 24]


class Healthy:
    """A client that does all right, in `/` or in `/ai`, and to whom nothing else may happen."""

    def __init__(self, world: World, namespace: bytes) -> None:
        self._world = world
        self.reader = Reader(world.connect())
        self._count = 0
        self._text = b""
        self.send(request(b"GET", mutations.WEBSOCKET, mutations.UPGRADE))
        self.send(frame(b"40" + namespace))
        self._connected = len(self.take())

    def send(self, data: bytes) -> None:
        if not self.reader.wire.open:
            raise Broken("a healthy client was disconnected")
        self.reader.wire.send(data)

    def take(self) -> list[bytes]:
        """Take what has come, and answer pings."""
        messages: list[bytes] = []
        for item in self.reader.read():
            if item.payload == b"2":
                self.send(frame(b"3"))
            else:
                messages.append(item.payload)
        return messages

    def expect_nothing(self) -> None:
        """Time has passed."""
        if messages := self.take():
            raise Broken(f"a healthy client got {messages}")

    def ask(self) -> None:
        """Ask for an acknowledgement in `/`."""
        self.expect_nothing()
        self._count += 1
        number = b"%d" % self._count
        self.send(frame(b'42%b["message-with-ack",%b]' % (number, number)))
        if (messages := self.take()) != [b"43%b[%b]" % (number, number)]:
            raise Broken(f"a healthy client asked, and got {messages}")

    def stream(self) -> None:
        """Have a stream in `/ai`."""
        self.expect_nothing()
        self._count += 1
        before = len(self._world.models)
        self.send(frame(b'42/ai,["ai:stream",{"prompt":"p","streamId":"h%d"}]' % self._count))
        if len(self._world.models) != before + 1:
            raise Broken(f"a healthy client's stream was refused: {self.take()}")
        model = self._world.models[-1]
        model.say("a", "b")
        model.done()
        names = [bytes(text).split(b'"')[1] for text in self.take()]
        if names != [
            b"ai:stream:start",
            b"ai:token",
            b"ai:token",
            b"ai:stream:complete",
            b"ai:done",
        ]:
            raise Broken(f"a healthy client's stream was {names}")


@contextlib.contextmanager
def still_there() -> Iterator[None]:
    """Whom the program talks to may have gone meanwhile; nothing else may be wrong."""
    try:
        yield
    except LocalProtocolError as error:
        if "no such socket" not in str(error):
            raise


def answer(server: Server, output: ProgramEvent, now: Millis) -> None:
    """Do what the program does with what an attacker sends, whatever its arguments are."""
    match output:
        case Joining():
            auth = output.auth if isinstance(output.auth, dict) else {}
            if "deny" in auth:
                server.refuse(output.socket, "no", now, {"by": "program"})
            elif "ignore" not in auth:
                server.admit(output.socket, now)
        case Event(ack_id=int(ack_id)):
            server.acknowledge(output.socket, ack_id, list(output.args), now)
        case Event(name="message"):
            server.emit(output.socket, "message-back", list(output.args), now)
        case Event(name="ask"):
            server.emit(output.socket, "ask-back", list(output.args), now, want_ack=True)
        case Event(name="late"):
            server.emit(output.socket, "in time", [], now, want_ack=True, ack_timeout=400)
        case Acknowledged():
            server.emit(output.socket, "asked", list(output.args), now)
        case Event(name="leave" | "close"):
            server.disconnect(output.socket, now, close=output.name == "close")
        case Event(name="enter"):
            server.join(output.socket, repr(output.args))
        case Event(name="exit"):
            server.leave(output.socket, repr(output.args))
        case Event(name="say" | "shout" | "shout-volatile", namespace=str(name)) if name != "/":
            rooms = ("('r',)",) if output.name == "say" else None
            volatile = output.name == "shout-volatile"
            server.broadcast(name, "said", list(output.args), now, rooms=rooms, volatile=volatile)
        case _:
            pass


class Attack:
    """A case."""

    def __init__(self, config: int) -> None:
        self.config = CONFIGS[config]
        self.world = World(self.config)
        self.world.on_program = self._program
        self.world.offered = ["codellama"]
        self.attackers = [Attacker() for _ in range(ATTACKERS)]
        self.sockets: dict[str, None] = {}
        self.stopping = False
        self.asking = Healthy(self.world, b"")
        self.streaming = Healthy(self.world, b"/ai,")

        self.sockets.clear()  # the healthy one's: nothing is sent to it but what it asks for

    def _program(self, output: ProgramEvent) -> None:
        if isinstance(output, Connected):
            self.sockets[output.socket] = None
        elif isinstance(output, Disconnected):
            self.sockets.pop(output.socket, None)
        with still_there():
            answer(self.world.server, output, self.world.now)

    def _answer_requests(self) -> None:
        while self.world.requests:
            self.world.respond(self.world.requests.pop(0), NOT_FOUND)

    # -- steps -------------------------------------------------------------------------------------

    def play(self, step: Step) -> None:
        """Do a step. One that makes no sense any more does nothing.

        Raises:
            Exception: whatever came out of the core, or Broken.
        """
        world, server = self.world, self.world.server
        attacker = self.attackers[step.who]
        wire = attacker.reader.wire if attacker.reader is not None and attacker.open else None
        match step.do:
            case Do.OPEN:
                self._open(attacker)
            case Do.SEND if wire is not None and not wire.reading_paused:
                assert attacker.reader is not None
                data = attacker.named(step.data)
                attacker.reader.sends(data, step.number)
                wire.send(data)
            case Do.EOF if wire is not None:
                wire.eof()
            case Do.LOSE if wire is not None:
                wire.drop()
            case Do.ROOM if wire is not None:
                wire.unblock(None if step.number < 0 else step.number)
            case Do.WAIT:
                self.wait(step.number)
            case Do.EMIT:
                for socket in list(self.sockets):
                    with still_there():
                        server.emit(socket, "e", [b"x" * step.number, "x" * step.number], world.now)
                world.pump()
            case Do.MODEL | Do.MODEL_STATUS | Do.MODEL_END if step.number < len(world.models):
                self._model(step)
            case Do.PROBED:
                server.upstream_probed(step.number, step.data, world.now)
                world.pump()
            case Do.HEALTHY if not self.stopping:
                self.asking.ask()
                self.streaming.stream()
            case Do.STOP:
                self.stopping = True
                server.shut_down(world.now)
                world.pump()
            case _:
                pass
        self._answer_requests()
        if attacker.reader is not None:
            attacker.learn()

    def _open(self, attacker: Attacker) -> None:
        if attacker.reader is not None:
            attacker.old.append(attacker.reader)
            if len(attacker.old) > OLD_WIRES:
                forgotten = attacker.old.pop(0)
                if forgotten.wire.open:
                    forgotten.wire.drop()
        attacker.reader = Reader(self.world.connect())

    def _model(self, step: Step) -> None:
        model = self.world.models[-1 - step.number]
        if model.paused or model.cancelled:
            return
        match step.do:
            case Do.MODEL:
                model.send(step.data)
            case Do.MODEL_STATUS:
                model.status(int(step.data))
            case _ if step.data == b"eof":
                model.eof()
            case _:
                model.fail(reached=step.data == b"broken")

    def wait(self, span: int) -> None:
        """Let time pass."""
        for _ in passing(self.world, span):
            self._answer_requests()
            if not self.stopping:
                self.asking.expect_nothing()
                self.streaming.expect_nothing()

    # -- the end -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let everything come to its end, and look that nothing is left.

        Raises:
            Exception: whatever came out of the core, or Broken.
        """
        readers = [
            reader for attacker in self.attackers for reader in (*attacker.old, attacker.reader)
        ]
        found = [reader for reader in readers if reader is not None]
        held = contents(self.world.server)
        if held.entries > MOST_ENTRIES or held.bytes > MOST_BYTES:
            raise Broken(f"the server holds {held}")
        for reader in found:
            if reader.wire.open:
                reader.wire.unblock()
        self.play(Step(Do.HEALTHY))  # also answers what the program is asked
        self.wait(SETTLED)
        for reader in found:
            reader.read()
            reader.check_answers()
        for wire in list(self.world.wires.values()):
            wire.drop()
        self.stopping = True
        self.wait(SETTLED)
        self._check_empty()

    def _check_empty(self) -> None:
        server = self.world.server
        deadline = server.next_timeout()
        if deadline is not None and deadline.reason != Timer.UPSTREAM_PROBE.value:
            raise Broken(f"{deadline} is left")
        stats = server.stats()
        if stats.total_sessions or stats.total_active_streams or stats.bytes_held:
            raise Broken(f"{stats} is left")
        left = contents(server)
        # Those of a rate's table are forgotten when it is next used, and bounded.
        rates = sum(len(item) for item in reached(server) if isinstance(item, Buckets))
        excess = left.entries - len(stats.errors) - rates - empty(self.config).entries
        if excess or left.kinds != empty(self.config).kinds:
            kinds = Counter(left.kinds)
            kinds.subtract(empty(self.config).kinds)
            raise Broken(f"{excess} entries are left, { ({k: n for k, n in kinds.items() if n}) }")


class Contents(NamedTuple):
    """What a server holds."""

    entries: int
    """Of all containers."""
    bytes: int
    """In all texts."""
    kinds: dict[str, int]
    """How many objects there are of each class of the core."""


_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType)


def contents(server: Server) -> Contents:
    """Count what a server reaches."""
    entries = size = 0
    kinds: Counter[str] = Counter()
    for item in reached(server):
        if isinstance(item, dict | list | deque | set):
            entries += len(item)
        elif isinstance(item, bytes | bytearray | str):
            size += len(item)
        elif type(item).__module__.startswith("tokenwire"):
            kinds[type(item).__name__] += 1
    return Contents(entries, size, kinds)


def reached(start: object) -> Iterator[object]:
    """Yield all objects that one reaches, but for code."""
    seen = {id(start)}
    todo = [start]
    while todo:
        item = todo.pop()
        yield item
        for other in gc.get_referents(item):
            if id(other) not in seen and not isinstance(other, _CODE):
                seen.add(id(other))
                todo.append(other)


@functools.cache
def empty(config: Config) -> Contents:
    """Return what a server holds that nobody has come to, after some time."""
    world = World(config)
    world.offered = ["codellama"]
    world.advance(2 * SETTLED)
    return contents(world.server)


class Script:
    """Draws the steps of a case, and plays them as they are drawn."""

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed)
        self._mutator = Mutator(self._draw)
        self.config = self._draw.randrange(len(CONFIGS))
        self._attack = Attack(self.config)
        self._roles = self._draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=ATTACKERS)
        self.steps: list[Step] = []

    def play(self, inputs: int) -> None:
        """Play a whole case with so many mutated messages."""
        draw = self._draw
        stop_at = int(inputs * 0.9) if draw.random() < 0.1 else inputs
        for number in range(inputs):
            if number % 100 == 50:
                self._do(Do.HEALTHY)
            if number == stop_at:
                self._do(Do.STOP)
            if draw.random() < 0.1:
                self._turn()
            self._input()
        self._attack.finish()

    def _do(self, do: Do, who: int = 0, data: bytes = b"", number: int = 0) -> None:
        step = Step(do, who, data, number)
        self.steps.append(step)
        self._attack.play(step)

    def _turn(self) -> None:
        """Let something happen that no attacker's message is."""
        draw = self._draw
        who = draw.randrange(ATTACKERS)
        match draw.randrange(12):
            case 0 | 1 | 2:
                self._do(Do.WAIT, number=draw.choice((0, 1, 99, 300, 500, 1_000, 5_000, 30_000)))
            case 3:
                self._do(Do.EOF, who)
            case 4:
                self._do(Do.LOSE, who)
            case 5:
                self._do(Do.ROOM, who, number=draw.choice((0, 1, 50, 500)))
            case 6 | 7:
                self._do(Do.ROOM, who, number=-1)
            case 8:
                self._do(Do.EMIT, number=draw.choice((0, 1, 200, 3_000)))
            case 9:
                data = draw.choice((b"200", b"404", b"503", b"999"))
                self._do(Do.MODEL_STATUS, data=data, number=draw.randrange(4))
            case 10:
                data = draw.choice((b"eof", b"broken", b"not reached"))
                self._do(Do.MODEL_END, data=data, number=draw.randrange(4))
            case _:
                data = self._mutator.model_lines()
                self._do(Do.PROBED, data=data, number=draw.choice((200, 200, 500)))

    def _input(self) -> None:
        """Send one mutated message of the role that an attacker has."""
        draw, mutator = self._draw, self._mutator
        who = draw.randrange(ATTACKERS)
        role = self._roles[who]
        attacker = self._attack.attackers[who]
        if draw.random() < 0.02:
            self._do(Do.LOSE, who)
        if not attacker.open or self._is_refused(attacker):
            self._begin(who, role)
        match role:
            case Role.HTTP:
                data = mutator.request()
                self._do(Do.SEND, who, data, number=int(data in mutations.REQUESTS))
            case Role.POLLING:
                if draw.random() < 0.2:
                    self._do(Do.OPEN, who)
                if draw.random() < 0.7:
                    self._do(Do.SEND, who, request(b"POST", OF_SESSION, body=mutator.payload()), 1)
                elif draw.random() < 0.8:
                    self._do(Do.SEND, who, request(b"GET", OF_SESSION), 1)
                else:
                    self._do(Do.SEND, who, mutator.request())
            case Role.FRAMES:
                self._do(Do.SEND, who, mutator.frames())
            case Role.ENGINE | Role.PROBE:
                self._do(Do.SEND, who, frame(mutator.engine_packet()))
            case Role.SOCKET:
                self._do(Do.SEND, who, mutator.socket_frames())
            case Role.AI:
                self._do(Do.SEND, who, mutator.ai_event())
            case Role.MODEL:
                self._do(Do.MODEL, data=mutator.model_lines(), number=draw.randrange(4))

    def _is_refused(self, attacker: Attacker) -> bool:
        """Return True if the latest answer was a refusal: its session is probably over."""
        assert attacker.reader is not None
        statuses = attacker.reader.statuses
        return bool(statuses) and statuses[-1] == 400 and self._draw.random() < 0.5

    def _begin(self, who: int, role: Role) -> None:
        """Let an attacker come to where its messages are looked at."""
        self._do(Do.OPEN, who)
        match role:
            case Role.HTTP:
                pass
            case Role.POLLING | Role.PROBE:
                self._do(Do.SEND, who, request(b"GET", mutations.POLLING), 1)
                if role is Role.POLLING:
                    self._do(Do.SEND, who, request(b"POST", OF_SESSION, body=b"40\x1e40/x,"), 1)
                else:
                    self._do(Do.OPEN, who)
                    self._do(Do.SEND, who, request(b"GET", PROBING, UPGRADE), 1)
            case _:
                self._do(Do.SEND, who, request(b"GET", mutations.WEBSOCKET, UPGRADE), 1)
                if role is Role.SOCKET:
                    back = b'{"pid":"%b"}' % PID if self._draw.random() < 0.5 else b""
                    self._do(Do.SEND, who, frame(b"40" + back) + frame(b"40/x,"))
                elif role in (Role.AI, Role.MODEL):
                    self._do(Do.SEND, who, frame(b"40/ai,"))
                if role is Role.MODEL:
                    self._do(Do.SEND, who, STREAM)
