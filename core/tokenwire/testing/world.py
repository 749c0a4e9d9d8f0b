"""A virtual world around a Server: sockets, the model server and the clock, all in one thread.

Rules of this file: nothing happens but by a call; time moves only in `advance`, from deadline to
deadline. A wire has room for `room` bytes (None: for all), so that a slow reader is a number.
"""

import base64
from collections import deque
from collections.abc import Callable

import msgspec

from tokenwire.config import Config
from tokenwire.outputs import (
    Abort,
    CancelUpstream,
    HttpRequest,
    Notice,
    PauseReading,
    PauseUpstream,
    ProbeUpstream,
    ProgramEvent,
    ResumeReading,
    ResumeUpstream,
    StartUpstream,
    Stopped,
    WantWrite,
)
from tokenwire.server import Server
from tokenwire.testing.ids import SeededIds
from tokenwire.testing.parse import Answer, Frame, take_answer, take_frames
from tokenwire.types import ConnId, Millis, Peer, Response, StreamId, UpstreamRequest

_PULL_BYTES = 64 * 1024
_MASK = b"\x01\x02\x03\x04"


class Wire:
    """One virtual socket, seen from the client."""

    def __init__(self, world: "World", conn: ConnId) -> None:
        self._world = world
        self.conn = conn
        self.room: int | None = None
        """How many bytes the socket takes before it is full; None: all."""
        self.received = b""
        """What has come and was not read by `answers` or `frames`."""
        self.ended = False
        self.aborted = False
        self.reading_paused = False

    @property
    def open(self) -> bool:
        return not (self.ended or self.aborted)

    def send(self, data: bytes) -> None:
        """Send bytes, whole, and let the server react."""
        self._world.server.receive_data(self.conn, data, self._world.now)
        self._world.pump()

    def eof(self) -> None:
        self._world.server.receive_eof(self.conn, self._world.now)
        self._world.pump()

    def drop(self) -> None:
        """Lose the socket."""
        self.aborted = True
        self._world.wires.pop(self.conn, None)
        self._world.server.connection_lost(self.conn, self._world.now)
        self._world.pump()

    def unblock(self, room: int | None = None) -> None:
        """Let the socket take `room` more bytes (None: all from now on)."""
        self.room = room
        self.flush()
        self._world.pump()

    def flush(self) -> None:
        while self.open:
            if self.room is not None and self.room <= 0:
                self._world.server.write_blocked(self.conn, self._world.now)
                return
            size = _PULL_BYTES if self.room is None else min(self.room, _PULL_BYTES)
            chunk = self._world.server.data_to_send(self.conn, size, self._world.now)
            self.received += chunk.data
            if self.room is not None:
                self.room -= len(chunk.data)
            if chunk.end:
                self.ended = True
                self._world.wires.pop(self.conn, None)
                self._world.server.connection_lost(self.conn, self._world.now)
            elif not chunk.data:
                return

    # -- HTTP --------------------------------------------------------------------------------------

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer | None:
        """Send a request; return its answer if it has come at once."""
        fields = {"Host": "test", **(headers or {})}
        if body or method == "POST":
            fields.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
        return self.answer(head=method == "HEAD")

    def answer(self, *, head: bool = False) -> Answer | None:
        """Take the next whole response, if it is there."""
        answer, self.received = take_answer(self.received, head=head)
        return answer

    # -- WebSocket ---------------------------------------------------------------------------------

    def upgrade(self, target: str, headers: dict[str, str] | None = None) -> Answer:
        """Ask for a WebSocket; return the answer (101 if it is open)."""
        fields = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
            **(headers or {}),
        }
        answer = self.request("GET", target, fields)
        assert answer is not None
        return answer

    def send_frame(self, payload: bytes, opcode: int = 1, *, fin: bool = True) -> None:
        """Send one masked frame."""
        self.send(masked_frame(payload, opcode, fin=fin))

    def send_text(self, text: str) -> None:
        self.send_frame(text.encode())

    def frames(self) -> list[Frame]:
        """Take all whole frames that have come."""
        taken, self.received = take_frames(self.received)
        return taken

    def texts(self) -> list[str]:
        """Take all whole text frames that have come, others left out."""
        return [frame.text for frame in self.frames() if frame.opcode == 1]


def masked_frame(
    payload: bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True
) -> bytes:
    """Return one client frame (RFC 6455 5.2)."""
    size = len(payload)
    bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 65_536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = int.from_bytes(_MASK * (size // 4 + 1), "big") >> 8 * (4 - size % 4)
    whole = int.from_bytes(payload, "big") ^ mask
    return head + _MASK + whole.to_bytes(size, "big")


class Model:
    """The model server's side of one stream."""

    def __init__(self, world: "World", stream: StreamId, request: UpstreamRequest) -> None:
        self._world = world
        self.stream = stream
        self.request = request
        self.paused = False
        self.cancelled = False
        self._answered = False

    @property
    def body(self) -> dict[str, object]:
        """The request's JSON."""
        return msgspec.json.decode(self.request.body, type=dict[str, object])

    def status(self, status: int) -> None:
        self._answered = True
        self._world.server.upstream_answered(self.stream, status, self._world.now)
        self._world.pump()

    def send(self, data: bytes) -> None:
        """Send raw bytes of the answer; 200 first, unless a status was sent."""
        if not self._answered:
            self.status(200)
        self._world.server.receive_upstream(self.stream, data, self._world.now)
        self._world.pump()

    def say(self, *pieces: str) -> None:
        """Send pieces of text, one line each, in one write."""
        lines = [{"message": {"content": piece}, "done": False} for piece in pieces]
        self.send(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def done(self, reason: str = "stop") -> None:
        """Send the proper end."""
        line = {"message": {"content": ""}, "done": True, "done_reason": reason}
        self.send(msgspec.json.encode(line) + b"\n")
        self.eof()

    def eof(self) -> None:
        self._world.server.upstream_eof(self.stream, self._world.now)
        self._world.pump()

    def fail(self, *, reached: bool) -> None:
        self._world.server.upstream_failed(self.stream, self._world.now, reached=reached)
        self._world.pump()


class World:
    """A Server and all that it talks to."""

    def __init__(self, config: Config | None = None, *, seed: int = 0, now: int = 1_000) -> None:
        self.now = Millis(now)
        self.server = Server(config or Config(), ids=SeededIds(seed))
        self.wires: dict[ConnId, Wire] = {}
        self.models: list[Model] = []
        """One for each stream, in the order of their starts."""
        self.offered: list[str] | None = []
        """What the model server says that it has; None: it is down."""
        self.program: deque[ProgramEvent] = deque()
        self.on_program: Callable[[ProgramEvent], None] | None = None
        """What the program does at once; None: what happens is collected in `program`."""
        self.requests: list[HttpRequest] = []
        self.notices: list[Notice] = []
        self.stopped = False
        self._by_stream: dict[StreamId, Model] = {}

    def connect(self, peer: Peer | None = None) -> Wire:
        """Open a socket, from this machine unless it is said from where."""
        conn = self.server.connected(peer or Peer("127.0.0.1", 1234), self.now)
        wire = self.wires[conn] = Wire(self, conn)
        self.pump()
        return wire

    def advance(self, span: int) -> None:
        """Let `span` milliseconds pass, with every deadline in them."""
        end = self.now + span
        while (deadline := self.server.next_timeout()) is not None and deadline.at <= end:
            self.now = Millis(max(self.now, deadline.at))
            self.server.handle_timeout(self.now)
            self.pump()
        self.now = Millis(end)

    def respond(self, request: HttpRequest, response: Response) -> None:
        self.server.respond(request.conn, response, self.now)
        self.pump()

    def pump(self) -> None:
        """Carry out all that the core wants."""
        while (output := self.server.poll()) is not None:
            match output:
                case WantWrite():
                    if output.conn in self.wires:
                        self.wires[output.conn].flush()
                case PauseReading() | ResumeReading():
                    if output.conn in self.wires:
                        paused = isinstance(output, PauseReading)
                        self.wires[output.conn].reading_paused = paused
                case Abort():
                    if output.conn in self.wires:
                        self.wires[output.conn].drop()
                case StartUpstream():
                    model = Model(self, output.stream, output.request)
                    self.models.append(model)
                    self._by_stream[output.stream] = model
                case PauseUpstream():
                    self._by_stream[output.stream].paused = True
                case ResumeUpstream():
                    self._by_stream[output.stream].paused = False
                case CancelUpstream():
                    self._by_stream[output.stream].cancelled = True
                case ProbeUpstream():
                    self._probe()
                case HttpRequest():
                    self.requests.append(output)
                case Notice():
                    self.notices.append(output)
                case Stopped():
                    self.stopped = True
                case _:  # a ProgramEvent; mypy names what else there is and has no case
                    if self.on_program is None:
                        self.program.append(output)
                    else:
                        self.on_program(output)

    def _probe(self) -> None:
        if self.offered is None:
            self.server.upstream_probed(None, b"", self.now)
        else:
            tags = {"models": [{"name": name} for name in self.offered]}
            self.server.upstream_probed(200, msgspec.json.encode(tags), self.now)
