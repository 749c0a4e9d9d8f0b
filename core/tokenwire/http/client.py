"""One connection to a server, in the client's role: HTTP/1.1 (h11), perhaps a WebSocket.

Rules of this file: one request at a time; what comes back is checked as strictly as what a client
sends. A connection on which nothing is under way may end at any time, and nobody is told
(RFC 9112 9.5).
"""

import base64
import enum
from collections import deque

import h11
import msgspec

from tokenwire.errors import LocalProtocolError
from tokenwire.http.frames import MASK_BYTES
from tokenwire.http.websocket import GOING_NORMALLY, WebSocket, accept_token
from tokenwire.types import Chunk, Headers, IdSource, Request, Response

_HEADER_BYTES = 16 * 1024
_KEY_BYTES = 16  # RFC 6455 4.1
_OWN_HEADERS = frozenset(
    {"connection", "content-length", "host", "sec-websocket-key", "sec-websocket-version",
     "sec-websocket-extensions", "sec-websocket-protocol", "transfer-encoding", "upgrade"}
)  # fmt: skip


class Opened(msgspec.Struct, frozen=True):
    """The WebSocket is open."""


class Message(msgspec.Struct, frozen=True):
    """A WebSocket message: UTF-8 `bytes`, or `Binary`."""

    message: bytes


class Failed(msgspec.Struct, frozen=True):
    """What was under way comes to nothing: the server closed, refused, or broke a rule."""

    reason: str


ClientEvent = Response | Opened | Message | Failed


class Phase(enum.Enum):
    IDLE = "idle"
    WAITING = "waiting"  # for the answer to a request
    SWITCHING = "switching"  # for the 101
    OPEN = "open"  # the WebSocket is
    LEAVING = "leaving"  # our close frame is out, the server's is awaited
    OVER = "over"


def check_request(host: str, request: Request) -> None:
    """Check what a program wants to be sent.

    Raises:
        LocalProtocolError: HTTP cannot carry it, or it has a header that is written here.
    """
    for name, _ in request.headers:
        if name.lower() in _OWN_HEADERS:
            raise LocalProtocolError(f"the header {name} is not the program's to set")
    try:
        _head(host, request, ())
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"HTTP cannot carry this: {error}") from error


def _head(host: str, request: Request, extra: Headers) -> h11.Request:
    target = f"{request.path}?{request.query}" if request.query else request.path
    headers = [("host", host), *request.headers, *extra]
    if request.body:
        headers.append(("content-length", str(len(request.body))))
    return h11.Request(method=request.method, target=target, headers=headers)


class ClientConnection:
    """The bytes of one connection."""

    __slots__ = (
        "_body",
        "_end",
        "_h11",
        "_head",
        "_host",
        "_ids",
        "_key",
        "_max_bytes",
        "_max_fragments",
        "_out",
        "_size",
        "_websocket",
        "events",
        "phase",
    )

    def __init__(self, host: str, *, max_bytes: int, max_fragments: int, ids: IdSource) -> None:
        """
        Args:
            host: what the Host header says.
            max_bytes: the largest body and the largest message that is taken.
            max_fragments: how many frames a message may come in.
            ids: draws the key of the WebSocket's handshake, and the masking keys.
        """
        self._host = host
        self._max_bytes = max_bytes
        self._max_fragments = max_fragments
        self._ids = ids
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADER_BYTES)
        self._websocket: WebSocket | None = None
        self._key = ""
        self._head: h11.Response | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._out = bytearray()
        self._end = False
        self.phase = Phase.IDLE
        self.events: deque[ClientEvent] = deque()

    # -- to the server -----------------------------------------------------------------------------

    def send_request(self, request: Request) -> None:
        """Send a request; its answer comes as a Response, or as Failed.

        Raises:
            LocalProtocolError: another one is under way, or the connection is over.
        """
        self._begin(request, Phase.WAITING, ())

    def send_upgrade(self, request: Request) -> None:
        """Ask for a WebSocket; it comes as Opened, a refusal as Failed.

        Args:
            request: a GET; the handshake's own headers are added.

        Raises:
            LocalProtocolError: a request is under way, or the connection is over.
        """
        self._key = base64.b64encode(self._ids.random_bytes(_KEY_BYTES)).decode()
        headers: Headers = (
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", self._key),
        )
        self._begin(request, Phase.SWITCHING, headers)

    def _begin(self, request: Request, phase: Phase, extra: Headers) -> None:
        if self.phase is not Phase.IDLE:
            raise LocalProtocolError("the connection is busy or over")
        self.phase = phase
        self._queue(self._h11.send(_head(self._host, request, extra)))
        if request.body:
            self._queue(self._h11.send(h11.Data(data=request.body)))
        self._queue(self._h11.send(h11.EndOfMessage()))

    def send_messages(self, messages: list[bytes]) -> None:
        """Send WebSocket messages.

        Raises:
            LocalProtocolError: there is no open WebSocket.
        """
        if self._websocket is None or self.phase is not Phase.OPEN:
            raise LocalProtocolError("the WebSocket is not open")
        self._queue(self._websocket.encode(messages))

    def leave(self) -> None:
        """Close the WebSocket, and wait for the server to do so too: it comes as Failed.

        Who closes a socket at once resets it, and what the server has not read is lost with it
        (RFC 6455 7.1.1).

        Raises:
            LocalProtocolError: there is no open WebSocket.
        """
        if self._websocket is None or self.phase is not Phase.OPEN:
            raise LocalProtocolError("the WebSocket is not open")
        self._queue(self._websocket.take_control())
        self._queue(self._websocket.close(GOING_NORMALLY))
        self.phase = Phase.LEAVING

    def close(self) -> None:
        """End after what is queued, with a close frame where there is a WebSocket.

        Harmless when the connection is over. What has come and was not looked at is forgotten.
        """
        self.events.clear()
        if self.phase is Phase.OVER:
            return
        if self._websocket is not None:
            self._queue(self._websocket.take_control())
            self._queue(self._websocket.close(GOING_NORMALLY))
        self._finish()

    # -- from the server ---------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take bytes, cut anywhere."""
        match self.phase:
            case Phase.WAITING | Phase.SWITCHING:
                self._receive(data)
            case Phase.OPEN | Phase.LEAVING:
                self._receive_frames(data)
            case Phase.IDLE:  # nobody has asked: whose answer is the next one then?
                self._finish()
            case _:  # OVER
                pass

    def receive_eof(self) -> None:
        """The server sends no more."""
        if self.phase in (Phase.WAITING, Phase.SWITCHING):
            self._receive(b"")  # an answer may end so (RFC 9112 6.3)
        if self.phase is Phase.IDLE:
            self._finish()
        elif self.phase is not Phase.OVER:
            self._fail("the server closed the connection")

    def _receive(self, data: bytes) -> None:
        try:
            self._h11.receive_data(data)
            while self.phase in (Phase.WAITING, Phase.SWITCHING) and self._read():
                pass
        except h11.RemoteProtocolError:
            self._fail("the server's answer is not HTTP")
        if self.phase is Phase.IDLE and self._h11.trailing_data[0]:
            self._finish()

    def _read(self) -> bool:
        """Take a part of the answer. Return False if the next one has not come."""
        event = self._h11.next_event()
        match event:
            case h11.InformationalResponse(status_code=101):
                self._switch(event)
            case h11.InformationalResponse():
                pass
            case h11.Response():
                self._head = event
            case h11.Data():
                self._body.append(bytes(event.data))
                self._size += len(event.data)
                if self._size > self._max_bytes:
                    self._fail("the server's answer is too large")
            case h11.EndOfMessage():
                self._complete()
            case _:  # NEED_DATA
                return False
        return True

    def _complete(self) -> None:
        assert self._head is not None
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
        """Take a 101. That it was asked for is h11's to check."""
        headers = dict(answer.headers)
        upgrade = headers.get(b"upgrade", b"").lower()
        accept = headers.get(b"sec-websocket-accept", b"").decode("latin-1")
        if upgrade != b"websocket" or accept != accept_token(self._key):
            self._fail("the server's WebSocket handshake is wrong")
            return
        if b"sec-websocket-extensions" in headers or b"sec-websocket-protocol" in headers:
            self._fail("the server chose an extension that was not offered")  # RFC 6455 4.1
            return
        self._websocket = WebSocket(
            max_message=self._max_bytes,
            max_fragments=self._max_fragments,
            new_mask=lambda: self._ids.random_bytes(MASK_BYTES),
        )
        self.phase = Phase.OPEN
        self.events.append(Opened())
        self._receive_frames(self._h11.trailing_data[0])

    def _receive_frames(self, data: bytes) -> None:
        assert self._websocket is not None
        messages = list(self._websocket.receive(data))
        if self.phase is Phase.OPEN:
            self.events.extend(map(Message, messages))
        if self._websocket.closed:
            self._queue(self._websocket.take_control())
            self._fail("the server closed the WebSocket, or broke its rules")

    def _fail(self, reason: str) -> None:
        self._finish()
        self.events.append(Failed(reason))

    def _finish(self) -> None:
        self.phase = Phase.OVER
        self._end = True
        self._body = []

    # -- bytes out ---------------------------------------------------------------------------------

    def _queue(self, data: bytes | None) -> None:
        self._out += data or b""

    @property
    def out_size(self) -> int:
        """Bytes that are queued."""
        return len(self._out)

    @property
    def has_output(self) -> bool:
        control = self._websocket is not None and self._websocket.has_control
        return bool(self._out) or self._end or control

    def take(self, max_bytes: int) -> Chunk:
        """Take at most `max_bytes` of what is queued."""
        if self._websocket is not None and len(self._out) < max_bytes:
            self._queue(self._websocket.take_control())
        data = bytes(self._out[:max_bytes])
        del self._out[:max_bytes]
        end = self._end and not self._out
        if end:
            self._end = False
        return Chunk(data, end)
