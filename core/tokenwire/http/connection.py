"""One connection: requests in order, one answer each, perhaps a WebSocket at the end.

Rules of this file: bytes come in by `receive_data`, what they mean comes out of `events`; answers
and messages go in, bytes come out of `take`. One request is answered before the next is read: a
peer that sends ahead is kept waiting, and only about `read_ahead_bytes` of it are kept. h11 sees
whole heads only, one connection of it for each request: what we answer does not depend on how the
bytes were cut. After a violation there is one answer and an end, and nothing is kept.
"""

import enum

import h11
import msgspec

from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.http import guards
from tokenwire.http.chunks import ChunkedBody
from tokenwire.http.events import HttpEvent, MessageReceived, WebSocketClosed
from tokenwire.http.websocket import WebSocket, accept_token
from tokenwire.types import Chunk, Headers, Peer, Request, Response

_REFUSAL: Headers = (("content-type", "text/plain; charset=UTF-8"),)
_UPGRADE_REQUIRED: Headers = (("upgrade", "websocket"), ("sec-websocket-version", "13"))


class Phase(enum.Enum):
    HEAD = "head"  # between requests, or in a request's head
    BODY = "body"
    ANSWER = "answer"  # the request is whole; its answer is awaited
    DRAIN = "drain"  # a body was refused: its rest is thrown away, or a reset eats our answer
    UPGRADED = "upgraded"
    OVER = "over"  # nothing more is read; what is queued goes out, then the end


class HttpConnection:
    """The bytes of one connection."""

    __slots__ = (
        "_body",
        "_chunks",
        "_config",
        "_cut",
        "_end",
        "_h11",
        "_head",
        "_key",
        "_last",
        "_left",
        "_out",
        "_peer",
        "_seen",
        "_unread",
        "early",
        "events",
        "out_size",
        "phase",
        "websocket",
    )

    def __init__(self, peer: Peer, config: Config) -> None:
        self._config = config
        self._peer = peer
        self._unread = bytearray()
        self._seen = 0
        """How much of the head in `_unread` was looked at."""
        self._h11: h11.Connection | None = None
        """That of the request which is read or answered."""
        self._head: Request | None = None
        self._key: str | None = None
        self._chunks: ChunkedBody | None = None
        self._left = 0
        """How much is still to come of a body whose length was told."""
        self._body = bytearray()
        self._out: list[bytes] = []
        self.out_size = 0
        """Bytes that are queued."""
        self._cut = False
        """True: what is queued begins inside a frame or a response."""
        self._end = False
        self._last = False
        """True: the peer sends no more."""
        self.phase = Phase.HEAD
        self.early = False
        """True: `receive_early` is to be called."""
        self.websocket: WebSocket | None = None
        self.events: list[HttpEvent] = []

    # -- bytes in ----------------------------------------------------------------------------------

    @property
    def reads_ahead(self) -> bool:
        """True: so much has come ahead of its turn that no more should be read."""
        ahead = len(self._unread) if self.phase in (Phase.ANSWER, Phase.UPGRADED) else 0
        return ahead > self._config.read_ahead_bytes

    @property
    def idle(self) -> bool:
        """True: between two requests, not a byte of the next has come."""
        return self.phase is Phase.HEAD and not self._unread

    @property
    def head(self) -> Request | None:
        """The request whose body is still coming, if one is."""
        return self._head if self.phase is Phase.BODY else None

    def take_events(self) -> list[HttpEvent]:
        """Take what the bytes so far meant."""
        events, self.events = self.events, []
        return events

    def receive_data(self, data: bytes) -> None:
        if self.phase is Phase.UPGRADED and not self._unread:
            self._receive_frames(data)
        elif self.phase not in (Phase.OVER, Phase.DRAIN):
            self._unread += data
            self._read_requests()

    def _receive_frames(self, data: bytes) -> None:
        assert self.websocket is not None
        for message in self.websocket.receive(data):
            self.events.append(MessageReceived(message))
        if self.websocket.closed:
            self._finish()
            self.events.append(WebSocketClosed())

    def _read_requests(self) -> None:
        try:
            if self.phase is Phase.HEAD:
                self._read_head()
            if self.phase is Phase.BODY:
                self._read_body()
        except h11.RemoteProtocolError as error:
            self.refuse(error.error_status_hint)
        except RemoteProtocolError as error:
            self.refuse(error.status, str(error))

    def _read_head(self) -> None:
        size = guards.find_head(self._unread, self._seen, self._config)
        if size is None:
            self._seen = len(self._unread)
            return
        head = bytes(self._unread[:size])
        del self._unread[:size]
        self._seen = 0
        guards.check_head(head, self._config)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=size)
        self._h11.receive_data(head)
        event = self._h11.next_event()
        assert isinstance(event, h11.Request)
        self._begin(event, self._h11)

    def _begin(self, event: h11.Request, connection: h11.Connection) -> None:
        headers: Headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers
        )
        method = event.method.decode("latin-1")
        path, _, query = event.target.decode("latin-1").partition("?")
        upgrade = guards.is_upgrade(headers)
        self._head = Request(method, path, query, headers, b"", self._peer, upgrade)
        guards.check_request(method, event.target, event.http_version, headers, self._config)
        if upgrade:
            self._key = guards.check_upgrade(method, event.http_version, headers)
        chunked = self._head.header("transfer-encoding") is not None
        self._chunks = ChunkedBody(self._config.max_payload) if chunked else None
        self._left = int(self._head.header("content-length") or "0")
        self.phase = Phase.BODY
        if connection.they_are_waiting_for_100_continue and (chunked or self._left):
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            self._queue(connection.send(go_on))

    def _read_body(self) -> None:
        if self._chunks is None:
            piece = self._unread[: self._left]
            taken = len(piece)
            self._left -= taken
            done = not self._left
            self._body += piece
        else:
            taken = self._chunks.feed(self._unread, self._body)
            done = self._chunks.done
        del self._unread[:taken]
        if done:
            assert self._head is not None
            self.phase = Phase.ANSWER
            self.events.append(msgspec.structs.replace(self._head, body=bytes(self._body)))
            self._body.clear()

    def receive_eof(self) -> None:
        """The peer sends no more. Only whole requests that wait for their answer are served."""
        self._last = True
        if self.phase not in (Phase.ANSWER, Phase.OVER):
            self._finish()

    # -- answers in --------------------------------------------------------------------------------

    def refuse(self, status: int, why: str = "") -> None:
        """Answer what cannot be read as a request, and end."""
        connection = self._h11 or h11.Connection(h11.SERVER)
        headers = _REFUSAL if status != 426 else _REFUSAL + _UPGRADE_REQUIRED
        body = b"" if status == 413 else why.encode()
        self._send(Response(status, headers, body), connection, close=True)
        self._finish()
        if status == 413:
            self.phase = Phase.DRAIN
            self._end = False

    def send_response(self, response: Response) -> None:
        """Answer the request that waits."""
        assert self._h11 is not None
        if response.status == 101:
            self._upgrade(self._h11)
            return
        self._send(response, self._h11, close=False)
        reusable = self._h11.our_state is h11.DONE  # MUST_CLOSE: HTTP/1.0, `connection: close`
        self._h11 = self._head = self._key = None
        if not reusable:
            self._finish()
            return
        self.phase = Phase.HEAD
        self._read_requests()
        if self._last and self.phase is not Phase.ANSWER:
            self._finish()

    def _send(self, response: Response, connection: h11.Connection, *, close: bool) -> None:
        headers = [*response.headers]
        # RFC 9110 8.6: 204 and 304 say no length of a body that they do not have.
        if response.status not in (204, 304):
            headers.append(("content-length", str(len(response.body))))
        if close:
            headers.append(("connection", "close"))
        head = h11.Response(status_code=response.status, headers=headers, reason=b"")
        self._queue(connection.send(head))
        if response.body and (self._head is None or self._head.method != "HEAD"):
            self._queue(connection.send(h11.Data(data=response.body)))
        self._queue(connection.send(h11.EndOfMessage()))

    def _upgrade(self, connection: h11.Connection) -> None:
        assert self._key is not None
        headers = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", accept_token(self._key)),
        ]
        self._queue(connection.send(h11.InformationalResponse(status_code=101, headers=headers)))
        self._out = [b"".join(self._out)]
        self._cut = True
        self._h11 = self._head = self._key = None
        self.phase = Phase.UPGRADED
        self.early = True
        self.websocket = WebSocket(
            max_message=self._config.max_payload, max_fragments=self._config.max_fragments
        )

    def receive_early(self) -> None:
        """Take the frames that came with the handshake, behind what is sent first."""
        self.early = False
        if self.phase is Phase.UPGRADED and self._unread:
            early, self._unread = bytes(self._unread), bytearray()
            self._receive_frames(early)
        if self.phase is Phase.UPGRADED and self._last:
            self._finish()
            self.events.append(WebSocketClosed())

    @property
    def close_sent(self) -> bool:
        """True: our close frame is out and the peer's is awaited."""
        return self.websocket is not None and self.websocket.close_sent

    # -- messages in -------------------------------------------------------------------------------

    def send_messages(self, messages: list[bytes]) -> None:
        if self.websocket is not None and not self.websocket.close_sent:
            self._queue(self.websocket.encode(messages))

    def close_websocket(self, code: int) -> None:
        """Send a close frame. The end comes with the peer's, or with the timer for it."""
        if self.websocket is not None:
            self._queue(self.websocket.close(code))

    # -- bytes out ---------------------------------------------------------------------------------

    def _queue(self, data: bytes | None) -> None:
        if data:
            self._out.append(data)
            self.out_size += len(data)

    def _finish(self) -> None:
        self.phase = Phase.OVER
        self._end = True
        self._unread.clear()
        self._body.clear()
        self._h11 = self._head = self._chunks = None

    def end(self) -> None:
        """End after what is queued."""
        self._finish()

    @property
    def _waits(self) -> bool:
        return bool(self._out) or (self.websocket is not None and self.websocket.has_control)

    @property
    def has_output(self) -> bool:
        return self._end or self._waits

    def _queue_control(self, websocket: WebSocket) -> None:
        """Queue pongs before all messages but one that has been begun, the close after all."""
        control = websocket.take_control()
        if websocket.close_sent:
            self._queue(control)
        else:
            self._out.insert(1 if self._cut else 0, control)
            self.out_size += len(control)

    def take(self, max_bytes: int) -> Chunk:
        """Take at most `max_bytes` of what is queued."""
        websocket = self.websocket
        if websocket is not None and websocket.has_control and self.out_size < max_bytes:
            self._queue_control(websocket)
        data = b"".join(self._out)
        self._out.clear()
        if len(data) > max_bytes:
            self._out.append(data[max_bytes:])
            data = data[:max_bytes]
        self._cut = bool(self._out)
        self.out_size -= len(data)
        end = self._end and not self._waits
        if end:
            self._end = False
        return Chunk(data, end)
