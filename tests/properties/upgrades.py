"""A client that goes from polling to WebSocket while numbered messages are under way.

Rules of this file: the client knows the protocol and nothing of the server's code. Each of its
three connections has a name, and a cut is a number of bytes on one of them, in one direction: what
comes behind is lost with the connection. A seed decides in which order things happen; up to the
cut, the same seed gives the same conversation.
"""

import random
from typing import Literal, NamedTuple

from properties.attack import contents
from properties.mutations import POLLING, UPGRADE, WEBSOCKET, frame, request
from tokenwire.config import Config
from tokenwire.outputs import Connected, Disconnected, Event
from tokenwire.testing import Wire, World
from tokenwire.testing.parse import take_frames

TICKS = 12
TICK = 60  # ms
CONFIG = Config(
    ai_namespace=None, heartbeat_interval=250, heartbeat_timeout=5_000, upgrade_timeout=1_000
)
OVER = 200_000
"""Longer than every span of the configuration, in ms."""

Name = Literal["poll", "post", "websocket"]
NAMES: tuple[Name, ...] = ("poll", "post", "websocket")
Way = Literal["to server", "to client"]
WAYS: tuple[Way, ...] = ("to server", "to client")


class Cut(NamedTuple):
    """The connection is lost after so many bytes."""

    name: Name
    way: Way
    at: int
    half: bool
    """True: the server first hears that the client sends no more."""


class Line:
    """The client's connection of one name: a socket, replaced where it was lost."""

    def __init__(self, world: World, cut: Cut | None) -> None:
        self._world = world
        self._cut = cut
        self.wire: Wire | None = None
        self.passed = {"to server": 0, "to client": 0}
        self.waiting = False
        """True: a request has no answer yet."""

    @property
    def lost(self) -> bool:
        return self.wire is not None and not self.wire.open

    def open(self) -> None:
        """Connect, unless there is a connection."""
        if self.wire is None or self.lost:
            self.wire = self._world.connect()

    def send(self, data: bytes) -> None:
        """Send bytes. What is sent to a connection that was lost goes nowhere."""
        if self.wire is None or self.lost:
            return
        wire, cut = self.wire, self._cut
        if cut is not None and cut.way == "to client":
            wire.room = cut.at - self.passed["to client"]
        room = len(data)
        if cut is not None and cut.way == "to server":
            room = min(room, cut.at - self.passed["to server"])
        self.passed["to server"] += room
        if room:
            wire.send(data[:room])
        if room < len(data):
            self._break()

    def _break(self) -> None:
        assert self.wire is not None
        if self._cut is not None and self._cut.half and self.wire.open:
            self.wire.eof()
        if self.wire.open:
            self.wire.drop()
        self._cut = None

    def arrived(self) -> bytes:
        """Take what has come; it ends at the cut."""
        if self.wire is None:
            return b""
        data, self.wire.received = self.wire.received, b""
        self.passed["to client"] += len(data)
        cut = self._cut
        if cut is not None and cut.way == "to client" and self.passed["to client"] >= cut.at:
            self._break()
        return data

    def drop(self) -> None:
        if self.wire is not None and self.wire.open:
            self.wire.drop()


class Upgrade:
    """One session, from polling to WebSocket."""

    def __init__(self, seed: int, cut: Cut | None = None) -> None:
        self._draw = random.Random(seed)
        self.cut = cut
        self.world = World(CONFIG)
        answer = self._request(b"GET", POLLING)
        self._sid = answer[answer.index(b'"sid":"') + 7 :][:20]
        self._request(b"POST", self._target(POLLING), b"40")
        self._request(b"GET", self._target(POLLING))
        (connected,) = self.world.program
        assert isinstance(connected, Connected)
        self._socket = connected.socket
        self.lines: dict[Name, Line] = {
            name: Line(self.world, cut if cut is not None and cut.name == name else None)
            for name in NAMES
        }
        self._unread: dict[Name, bytes] = dict.fromkeys(NAMES, b"")
        self._queue: list[bytes] = []
        self.emitted = self.posted = 0
        self.got: list[int] = []
        self.alive = True
        self.probing = self.pausing = self.upgraded = False

    def _target(self, target: bytes) -> bytes:
        return target + b"&sid=" + self._sid

    def _request(self, method: bytes, target: bytes, body: bytes | None = None) -> bytes:
        answer = self.world.connect().request(method.decode(), target.decode(), body=body or b"")
        assert answer is not None
        assert answer.status == 200
        return answer.body

    # -- what happens ------------------------------------------------------------------------------

    def play(self) -> None:
        """Let the conversation take its way, and try again where the WebSocket alone was lost."""
        for tick in range(TICKS):
            if tick == 2 and self.alive:
                self._probe()
            actions = [self._emit, self._queue_one, self._poll, self._post, self._read]
            self._draw.shuffle(actions)
            for action in actions:
                if self._draw.random() < 0.7 and self.alive:
                    action()
            self.world.advance(TICK)
        self._settle()
        if self.alive and not self.upgraded:
            self._probe()
            for _ in range(2):
                self._emit()
                self._queue_one()
                self._settle()

    def _settle(self) -> None:
        """Let all that is under way arrive."""
        for _ in range(8):
            for action in (self._read, self._post, self._poll, self._read):
                if self.alive:
                    action()
            self.world.advance(1)

    def _emit(self) -> None:
        if self._socket_is_there():
            self.world.server.emit(self._socket, self.emitted, [], self.world.now)
            self.emitted += 1
            if self._draw.random() < 0.5:
                self.world.pump()

    def _socket_is_there(self) -> bool:
        return not any(isinstance(output, Disconnected) for output in self.world.program)

    def _queue_one(self) -> None:
        self._queue.append(b"42[%d]" % self.posted)
        self.posted += 1

    def _probe(self) -> None:
        self.probing = True
        self.lines["websocket"].open()
        self._send("websocket", request(b"GET", self._target(WEBSOCKET), UPGRADE))

    def _poll(self) -> None:
        line = self.lines["poll"]
        if not (line.waiting or self.pausing or self.upgraded):
            line.open()
            self._send("poll", request(b"GET", self._target(POLLING)))
            line.waiting = True

    def _post(self) -> None:
        line = self.lines["post"]
        if not self._queue:
            return
        if self.upgraded:
            self._send("websocket", b"".join(map(frame, self._queue)))
            self._queue.clear()
        elif not (line.waiting or self.pausing):
            body = b"\x1e".join(self._queue)
            self._queue.clear()
            line.open()
            self._send("post", request(b"POST", self._target(POLLING), body=body))
            line.waiting = True

    def _send(self, name: Name, data: bytes) -> None:
        self.lines[name].send(data)

    # -- what comes --------------------------------------------------------------------------------

    def _read(self) -> None:
        self.world.pump()
        for name in NAMES:
            self._unread[name] += self.lines[name].arrived()
        self._read_answer("poll")
        self._read_answer("post")
        if self.probing or self.upgraded:
            self._read_websocket()
        if self.pausing and not (self.lines["poll"].waiting or self.lines["post"].waiting):
            self.pausing, self.upgraded, self.probing = False, True, False
            self._send("websocket", frame(b"5"))

    def _read_answer(self, name: Name) -> None:
        line = self.lines[name]
        while line.waiting:
            head, separator, rest = self._unread[name].partition(b"\r\n\r\n")
            size = int(head.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
            if not separator or len(rest) < size:
                if line.lost:  # what a client calls a transport error
                    self._end()
                return
            self._unread[name] = rest[size:]
            line.waiting = False
            if head[9:12] != b"200":
                self._end()
            elif name == "poll":
                self._take(rest[:size].split(b"\x1e"))

    def _read_websocket(self) -> None:
        if self._unread["websocket"].startswith(b"HTTP/1.1"):
            _, separator, rest = self._unread["websocket"].partition(b"\r\n\r\n")
            if separator:
                self._unread["websocket"] = rest
                self._send("websocket", frame(b"2probe"))
        if not self._unread["websocket"].startswith(b"HTTP/1.1"):
            frames, self._unread["websocket"] = take_frames(self._unread["websocket"])
            for item in frames:
                if item.opcode == 8:
                    self._end()
                elif item.payload == b"3probe":
                    self.pausing = True
                else:
                    self._take([item.payload])
        if self.lines["websocket"].lost:
            if self.upgraded:
                self._end()
            else:  # the probe has failed, polling goes on
                self.probing = self.pausing = False
                self._unread["websocket"] = b""

    def _take(self, packets: list[bytes]) -> None:
        for packet in packets:
            if packet == b"1":
                self._end()
            elif packet == b"2":
                self._queue.append(b"3")
            elif packet != b"6":
                assert packet.startswith(b"42["), packet
                self.got.append(int(packet[3:-1]))

    def _end(self) -> None:
        self.alive = False
        for line in self.lines.values():
            line.drop()

    # -- what must hold ----------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing is lost, doubled or reordered; a session that is over leaves nothing."""
        received = [output.name for output in self.world.program if isinstance(output, Event)]
        if self.cut is None or (self.cut.name == "websocket" and not self.upgraded):
            assert self.alive
        if self.alive:
            assert self.upgraded
            assert self.got == list(range(self.emitted))
            assert received == list(range(self.posted))
            assert self._socket_is_there()
        else:
            assert self.got == list(range(len(self.got)))
            assert received == list(range(len(received)))
        for line in self.lines.values():
            line.drop()
        self.world.advance(OVER)
        assert not self._socket_is_there()
        assert not self.world.wires
        assert self.world.server.next_timeout() is None
        left = contents(self.world.server)
        assert (left.kinds, left.entries) == (EMPTY.kinds, EMPTY.entries)


EMPTY = contents(World(CONFIG).server)


def cuts(seed: int) -> list[Cut]:
    """Return a cut at every place of a seed's conversation."""
    whole = Upgrade(seed)
    whole.play()
    return [
        Cut(name, way, at, half)
        for half in (False, True)
        for name in NAMES
        for way in WAYS
        for at in range(whole.lines[name].passed[way] + 1)
    ]
