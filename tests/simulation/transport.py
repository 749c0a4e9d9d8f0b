"""The Engine.IO side of a stock client: over WebSocket, over polling, or first one, then the other.

Rules of this file: it knows the protocol and nothing of the server's code. Whatever breaks a
connection that it needs ends it, and so does a ping that does not come.
"""

import enum
from collections.abc import Callable

import msgspec
from simulation.links import Pipe
from simulation.loop import Loop, Violation
from tokenwire.testing.parse import take_answer, take_frames
from tokenwire.testing.world import masked_frame

_KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
_PROBE_TIMEOUT = 5_000


class Mode(enum.Enum):
    WEBSOCKET = "websocket"
    POLLING = "polling"
    UPGRADE = "polling, then websocket"


class Line:
    """One of a client's sockets, and what is read from it."""

    def __init__(self, transport: "Transport", dial: Callable[[], Pipe]) -> None:
        self._dial = dial
        self._transport = transport
        self.pipe: Pipe | None = None
        self.data = b""
        self.asked = False
        """True: a request waits for its answer."""

    def request(self, method: str, query: str, body: bytes = b"", fields: str = "") -> None:
        """Send a request, over a new connection if there is none."""
        if self.pipe is None or not self.pipe.client_open:
            self.pipe = self._dial()
            self.pipe.on_data = self._on_data
            self.pipe.on_lost = self._on_lost
            self.data = b""
        self.asked = True
        size = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        head = f"{method} /socket.io/?EIO=4&{query} HTTP/1.1\r\nHost: x\r\n{fields}{size}\r\n"
        self.pipe.send(head.encode() + body)

    def upgrade(self, query: str) -> None:
        self.request(
            "GET",
            f"transport=websocket{query}",
            fields="Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {_KEY}\r\n",
        )

    def _on_data(self, data: bytes) -> None:
        self.data += data
        self._transport.read(self)

    def _on_lost(self) -> None:
        self._transport.lost(self)

    def close(self) -> None:
        if self.pipe is not None:
            self.pipe.hang_up()


class Transport:
    """One Engine.IO session of a client."""

    def __init__(
        self,
        loop: Loop,
        mode: Mode,
        dial: Callable[[], Pipe],
        heard: Callable[[str], None],
        closed: Callable[[], None],
    ) -> None:
        """
        Args:
            loop: the clock.
            mode: which way.
            dial: opens a socket.
            heard: is given each message, as a packet; and first, when it is open, nothing.
            closed: is told once of the end, unless `close` was called.
        """
        self._loop = loop
        self._heard = heard
        self._closed = closed
        self.open = True
        self.heard_at = loop.now
        """When anything came last."""
        self._sid = ""
        self._queue: list[str] = []
        self._get, self._post, self.ws = (Line(self, dial) for _ in range(3))
        self._probing = self._pausing = False
        self.upgraded = mode is Mode.WEBSOCKET
        self._switched = False
        """True: the 101 of the WebSocket has come."""
        self._mode = mode
        self._deadline = 0
        self._span = 0
        if self.upgraded:
            self.ws.upgrade("")
        else:
            self._get.request("GET", "transport=polling")
        self._watch(loop.draw.choice((4_000, 10_000)))

    # -- to the server -----------------------------------------------------------------------------

    def send(self, packet: str) -> None:
        """Send an Engine.IO packet, as soon as the transport can."""
        self._queue.append(packet)
        self._flush()

    def _flush(self) -> None:
        if not self._queue or not self.open:
            return
        if self.upgraded:
            if self._switched and self.ws.pipe is not None:
                for packet in self._queue:
                    self.ws.pipe.send(masked_frame(packet.encode()))
                self._queue.clear()
        elif self._sid and not self._post.asked and not self._pausing:
            body = "\x1e".join(self._queue).encode()
            self._queue.clear()
            self._post.request("POST", f"transport=polling&sid={self._sid}", body)

    def close(self) -> None:
        """Leave, without a word."""
        self.open = False
        for line in (self._get, self._post, self.ws):
            line.close()

    def say_goodbye(self) -> None:
        """Tell the server, then leave."""
        self.send("1")
        self._loop.later(100, self.close)

    def all_sent(self) -> int | None:
        """Return how many bytes were sent over a WebSocket that is in order, if it is one."""
        pipe = self.ws.pipe
        if not self.open or not self.upgraded or pipe is None or not pipe.server_open:
            return None
        return None if self._queue or pipe.closing or pipe.blocked else pipe.up.pushed

    def idle(self) -> bool:
        """Return True if all that the server had to say was taken."""
        pipe = self.ws.pipe
        return (
            self.open
            and self.upgraded
            and self._switched
            and pipe is not None
            and pipe.server_open
            and not (pipe.blocked or pipe.closing or pipe.up.dead)
            and pipe.up.passed == pipe.up.pushed
            and pipe.down.passed == pipe.down.pushed
        )

    # -- what goes wrong ---------------------------------------------------------------------------

    def _watch(self, span: int) -> None:
        """Wait so long for a ping."""
        self._deadline = self._loop.now + span
        self._loop.later(span, self._look)

    def _look(self) -> None:
        if self.open and self._loop.now >= self._deadline:
            self._break()

    def lost(self, line: Line) -> None:
        """A socket is gone."""
        if not self.open:
            return
        if line is self.ws and not self.upgraded:
            self._drop_probe()
        elif line is self.ws or line.asked:
            self._break()

    def _break(self) -> None:
        self.close()
        self._closed()

    def _drop_probe(self) -> None:
        """The upgrade has failed: polling goes on."""
        self._probing = self._pausing = False
        self.ws.close()
        self._poll()
        self._flush()

    # -- from the server ---------------------------------------------------------------------------

    def read(self, line: Line) -> None:
        """Something has come on a socket."""
        if not self.open:
            return
        self.heard_at = self._loop.now
        if line is self.ws and self._switched:
            self._read_frames()
            return
        answer, line.data = take_answer(line.data)
        if answer is None:
            return
        line.asked = False
        if line is self.ws and answer.status == 101:
            self._switched = True
            if self._probing:
                self._send_frame("2probe")
            self._read_frames()
        elif answer.status != 200:
            self.lost(line) if line is self.ws else self._break()
        elif line is self._get:
            for packet in answer.body.decode().split("\x1e"):
                self._take(packet)
            self._poll()
        else:
            self._flush()
        self._finish_pause()

    def _send_frame(self, packet: str) -> None:
        assert self.ws.pipe is not None
        self.ws.pipe.send(masked_frame(packet.encode()))

    def _read_frames(self) -> None:
        frames, self.ws.data = take_frames(self.ws.data)
        for frame in frames:
            if not self.open:
                return
            if frame.opcode == 8:
                assert self.ws.pipe is not None
                self.ws.pipe.send(masked_frame(frame.payload, 8))
                self.lost(self.ws)
            elif frame.payload == b"3probe":
                self._pausing = self._probing
                self._finish_pause()
            else:
                self._take(frame.payload.decode())

    def _take(self, packet: str) -> None:
        """Take one Engine.IO packet."""
        if not self.open:
            return
        kind, message = packet[:1], packet[1:]
        match kind:
            case "0":
                opening = msgspec.json.decode(message)
                self._sid = opening["sid"]
                self._span = opening["pingInterval"] + opening["pingTimeout"]
                self._watch(self._span)
                if self._mode is Mode.UPGRADE:
                    self._loop.later(self._loop.draw.choice((0, 10, 300, 2_000)), self._probe)
                self._heard("")
            case "1":
                self._break()
            case "2":
                self._watch(self._span)
                self.send("3")
            case "4":
                self._heard(packet)
            case "6":
                pass
            case _:
                raise Violation(f"no packet of a server: {packet}")

    def _poll(self) -> None:
        if self.open and self._sid and not (self.upgraded or self._pausing or self._get.asked):
            self._get.request("GET", f"transport=polling&sid={self._sid}")

    # -- the upgrade -------------------------------------------------------------------------------

    def _probe(self) -> None:
        if self.open:
            self._probing = True
            self.ws.upgrade(f"&sid={self._sid}")
            self._loop.later(_PROBE_TIMEOUT, self._probe_is_late)

    def _probe_is_late(self) -> None:
        if self.open and not self.upgraded and self._probing:
            self._drop_probe()

    def _finish_pause(self) -> None:
        """The polling requests have their answers: go over to the WebSocket."""
        if self.open and self._pausing and not (self._get.asked or self._post.asked):
            self._probing = self._pausing = False
            self.upgraded = True
            self._loop.note("transport", "goes over to the WebSocket")
            self._send_frame("5")
            self._get.close()
            self._post.close()
            self._flush()
