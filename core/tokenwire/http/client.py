"""One connection to a server, in the client's role: HTTP/1.1 (h11), perhaps a WebSocket (wsproto).

Rules of this file: one request at a time; what comes back is checked as strictly as what a client
sends. Masking keys are drawn by wsproto itself: the one place where the core is not a function of
its inputs (RFC 6455 5.3 wants them unpredictable, and no output depends on them but bytes).
"""

import base64
import enum
from collections import deque

import h11
import msgspec
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from tokenwire.errors import LocalProtocolError
from tokenwire.http.websocket import accept_token
from tokenwire.types import Chunk, Headers, Request, Response
from tokenwire.wire import Binary

_HEADER_BYTES = 16 * 1024


class Opened(msgspec.Struct, frozen=True):
    """The WebSocket is open."""


class Message(msgspec.Struct, frozen=True):
    """A WebSocket message: UTF-8 `bytes`, or `Binary`."""

    message: bytes


class Failed(msgspec.Struct, frozen=True):
    """The connection is of no more use: closed by the server, or the server broke a rule."""

    reason: str


ClientEvent = Response | Opened | Message | Failed


class Phase(enum.Enum):
    IDLE = "idle"
    WAITING = "waiting"  # for the answer to a request
    SWITCHING = "switching"  # for the 101
    OPEN = "open"  # the WebSocket is
    OVER = "over"


class ClientConnection:
    """The bytes of one connection."""

    __slots__ = (
        "_body",
        "_connection",
        "_end",
        "_h11",
        "_head",
        "_host",
        "_key",
        "_max_bytes",
        "_out",
        "_parts",
        "_size",
        "events",
        "phase",
    )

    def __init__(self, host: str, *, max_bytes: int) -> None:
        """
        Args:
            host: what the Host header says.
            max_bytes: the largest body and the largest message that is taken.
        """
        self._host = host
        self._max_bytes = max_bytes
        self._h11: h11.Connection | None = h11.Connection(
            h11.CLIENT, max_incomplete_event_size=_HEADER_BYTES
        )
        self._connection: Connection | None = None
        self._key = ""
        self._head: h11.Response | None = None
        self._body: list[bytes] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._out: deque[bytes] = deque()
        self._end = False
        self.phase = Phase.IDLE
        self.events: deque[ClientEvent] = deque()

    # -- to the server -----------------------------------------------------------------------------

    def send_request(self, request: Request) -> None:
        """Send a request; its answer comes as a Response.

        Raises:
            LocalProtocolError: another one is under way.
        """
        self._begin(request, Phase.WAITING, ())

    def send_upgrade(self, request: Request, key: bytes) -> None:
        """Ask for a WebSocket; it comes as Opened, a refusal as Failed.

        Args:
            request: a GET; the handshake's own headers are added.
            key: 16 random bytes.

        Raises:
            LocalProtocolError: a request is under way.
        """
        self._key = base64.b64encode(key).decode()
        headers: Headers = (
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", self._key),
        )
        self._begin(request, Phase.SWITCHING, headers)

    def _begin(self, request: Request, phase: Phase, extra: Headers) -> None:
        if self.phase is not Phase.IDLE or self._h11 is None:
            raise LocalProtocolError("the connection is busy or over")
        self.phase = phase
        target = f"{request.path}?{request.query}" if request.query else request.path
        headers = [("host", self._host), *request.headers, *extra]
        if request.body:
            headers.append(("content-length", str(len(request.body))))
        head = h11.Request(method=request.method, target=target, headers=headers)
        self._queue(self._h11.send(head))
        if request.body:
            self._queue(self._h11.send(h11.Data(data=request.body)))
        self._queue(self._h11.send(h11.EndOfMessage()))

    def send_messages(self, messages: list[bytes]) -> None:
        """Send WebSocket messages. Nothing is sent on a connection that is over."""
        if self._connection is None or self.phase is not Phase.OPEN:
            return
        for message in messages:
            event = (
                BytesMessage(data=message)
                if type(message) is Binary
                else TextMessage(data=message.decode())
            )
            self._queue(self._connection.send(event))

    def close(self) -> None:
        """End after what is queued, with a close frame where there is a WebSocket."""
        if self.phase is Phase.OVER:
            return
        if self._connection is not None:
            self._queue(self._connection.send(CloseConnection(code=1000)))
        self._finish()

    # -- from the server ---------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take bytes, cut anywhere."""
        if self.phase is Phase.OVER:
            return
        if self._connection is not None:
            self._receive_frames(self._connection, data)
            return
        assert self._h11 is not None
        try:
            self._h11.receive_data(data)
            self._read_answer()
        except h11.RemoteProtocolError:
            self._fail("the server's answer is not HTTP")

    def receive_eof(self) -> None:
        """The server sends no more."""
        if self.phase is not Phase.OVER:
            self._fail("the server closed the connection")

    def _read_answer(self) -> None:
        while self._h11 is not None and self.phase in (Phase.WAITING, Phase.SWITCHING):
            event = self._h11.next_event()
            match event:
                case h11.InformationalResponse():
                    if event.status_code == 101:
                        self._switch(event)
                case h11.Response():
                    self._head = event
                case h11.Data():
                    self._body.append(bytes(event.data))
                    self._size += len(event.data)
                    if self._size > self._max_bytes:
                        self._fail("the server's answer is too large")
                case h11.EndOfMessage():
                    self._complete()
                case _:
                    return
        if self.phase is Phase.IDLE and self._h11 is not None and self._h11.trailing_data[0]:
            self._fail("the server sent more than it was asked for")

    def _complete(self) -> None:
        assert self._head is not None
        assert self._h11 is not None
        status, headers = self._head.status_code, self._head.headers
        body, self._body, self._size = b"".join(self._body), [], 0
        if self.phase is Phase.SWITCHING:
            self._fail(f"the server refused the WebSocket with status {status}")
            return
        self.events.append(
            Response(
                status,
                tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers),
                body,
            )
        )
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self.phase = Phase.IDLE
        else:
            self._finish()

    def _switch(self, answer: h11.InformationalResponse) -> None:
        assert self._h11 is not None
        headers = dict(answer.headers)
        accept = headers.get(b"sec-websocket-accept", b"").decode("latin-1")
        if self.phase is not Phase.SWITCHING or accept != accept_token(self._key):
            self._fail("the server's WebSocket handshake is wrong")
            return
        if b"sec-websocket-extensions" in headers or b"sec-websocket-protocol" in headers:
            self._fail("the server chose an extension that was not offered")  # RFC 6455 4.1
            return
        early = self._h11.trailing_data[0]
        self._h11 = None
        self._connection = Connection(ConnectionType.CLIENT)
        self.phase = Phase.OPEN
        self.events.append(Opened())
        if early:
            self._receive_frames(self._connection, early)

    def _receive_frames(self, connection: Connection, data: bytes) -> None:
        connection.receive_data(data)
        for event in connection.events():
            match event:
                case TextMessage() | BytesMessage():
                    self._add(event)
                case Ping():
                    self._queue(connection.send(Pong(payload=bytes(event.payload))))
                case CloseConnection():
                    if connection.state is ConnectionState.REMOTE_CLOSING:
                        self._queue(connection.send(event.response()))
                    self._fail(f"the server closed the WebSocket with code {event.code}")
                case _:
                    pass
            if self.phase is Phase.OVER:
                return

    def _add(self, event: TextMessage | BytesMessage) -> None:
        part = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._max_bytes:
            self._fail("the server's message is too large")
        elif event.message_finished:
            message, self._parts, self._size = b"".join(self._parts), [], 0
            is_text = isinstance(event, TextMessage)
            self.events.append(Message(message if is_text else Binary(message)))

    def _fail(self, reason: str) -> None:
        self._finish()
        self.events.append(Failed(reason))

    def _finish(self) -> None:
        self.phase = Phase.OVER
        self._end = True
        self._parts, self._body = [], []

    # -- bytes out ---------------------------------------------------------------------------------

    def _queue(self, data: bytes | None) -> None:
        if data:
            self._out.append(data)

    @property
    def has_output(self) -> bool:
        return bool(self._out) or self._end

    def take(self, max_bytes: int) -> Chunk:
        """Take at most `max_bytes` of what is queued."""
        data = b"".join(self._out)
        self._out.clear()
        if len(data) > max_bytes:
            self._out.append(data[max_bytes:])
            data = data[:max_bytes]
        end = self._end and not self._out
        if end:
            self._end = False
        return Chunk(data, end)
