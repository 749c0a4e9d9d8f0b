"""One connection: requests in order, one answer each, perhaps a WebSocket at the end.

Rules of this file: bytes come in by `receive_data`, what they mean comes out of `events`; answers
and messages go in, bytes come out of `take`. One request is answered before the next is read: a
peer that sends ahead is kept waiting, and only `read_ahead_bytes` of it are kept. After a violation
there is one answer and an end.
"""

import enum
from collections import deque

import h11
import msgspec

from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.http import guards
from tokenwire.http.websocket import WebSocket, accept_token
from tokenwire.types import Chunk, Headers, Peer, Request, Response

_BAD_REQUEST_HEADERS: Headers = (("content-type", "text/plain; charset=UTF-8"),)


class Phase(enum.Enum):
    HEAD = "head"  # between requests, or in a request's head
    BODY = "body"
    ANSWER = "answer"  # the request is whole; its answer is awaited
    UPGRADED = "upgraded"
    OVER = "over"  # nothing more is read; what is queued goes out, then the end


class MessageReceived(msgspec.Struct, frozen=True):
    """A WebSocket message."""

    message: bytes


class WebSocketClosed(msgspec.Struct, frozen=True):
    """The peer closed its WebSocket, or was closed for a violation."""


HttpEvent = Request | MessageReceived | WebSocketClosed


class HttpConnection:
    """The bytes of one connection."""

    __slots__ = (
        "_ahead",
        "_body",
        "_body_size",
        "_config",
        "_end",
        "_h11",
        "_head",
        "_key",
        "_last",
        "_out",
        "_out_size",
        "_peer",
        "_seen_bytes",
        "events",
        "phase",
        "websocket",
    )

    def __init__(self, peer: Peer, config: Config) -> None:
        self._config = config
        self._peer = peer
        self._h11: h11.Connection | None = h11.Connection(
            h11.SERVER, max_incomplete_event_size=config.header_bytes
        )
        self._head: Request | None = None
        self._key: str | None = None
        self._body: list[bytes] = []
        self._body_size = 0
        self._ahead: list[bytes] = []
        self._out: deque[bytes] = deque()
        self._out_size = 0
        self._end = False
        self._last = False
        self._seen_bytes = False
        self.phase = Phase.HEAD
        self.websocket: WebSocket | None = None
        self.events: deque[HttpEvent] = deque()

    # -- bytes in ----------------------------------------------------------------------------------

    @property
    def reads_ahead(self) -> bool:
        """True: so much has come ahead of its turn that no more should be read."""
        return sum(map(len, self._ahead)) > self._config.read_ahead_bytes

    @property
    def idle(self) -> bool:
        """True: between two requests, not a byte of the next has come."""
        return self.phase is Phase.HEAD and not self._seen_bytes

    def receive_data(self, data: bytes) -> None:
        if self.websocket is not None:
            self._receive_frames(self.websocket, data)
        elif self.phase is Phase.ANSWER:
            self._ahead.append(data)
        elif self.phase is not Phase.OVER:
            self._seen_bytes = True
            assert self._h11 is not None
            self._h11.receive_data(data)
            self._read_requests()

    def _receive_frames(self, websocket: WebSocket, data: bytes) -> None:
        if self.phase is Phase.OVER:
            return
        for message in websocket.receive(data):
            self.events.append(MessageReceived(message))
        self._queue(websocket.control())
        if websocket.closed:
            self._finish()
            self.events.append(WebSocketClosed())

    def _read_requests(self) -> None:
        assert self._h11 is not None
        try:
            while self.phase in (Phase.HEAD, Phase.BODY):
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                match event:
                    case h11.Request():
                        self._begin(event)
                    case h11.Data():
                        self._add_body(event.data)
                    case h11.EndOfMessage():
                        self._complete()
                    case _:
                        return
        except h11.RemoteProtocolError as error:
            self.refuse(error.error_status_hint)
        except RemoteProtocolError as error:
            self.refuse(error.status, str(error))

    def _begin(self, event: h11.Request) -> None:
        headers: Headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers
        )
        method = event.method.decode("latin-1")
        guards.check_request(method, event.target, event.http_version, headers, self._config)
        upgrade = guards.is_upgrade(headers)
        if upgrade:
            self._key = guards.check_upgrade(method, event.http_version, headers)
        path, _, query = event.target.decode("latin-1").partition("?")
        self._head = Request(method, path, query, headers, b"", self._peer, upgrade)
        self.phase = Phase.BODY
        assert self._h11 is not None
        if self._h11.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            self._queue(self._h11.send(go_on))

    def _add_body(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > self._config.max_payload:
            raise RemoteProtocolError("the request body is too large", status=413)
        self._body.append(bytes(data))

    def _complete(self) -> None:
        assert self._head is not None
        self.phase = Phase.ANSWER
        request = msgspec.structs.replace(self._head, body=b"".join(self._body))
        self._body, self._body_size = [], 0
        self.events.append(request)

    def receive_eof(self) -> None:
        """The peer sends no more. Only a request that waits for its answer is still served."""
        if self.phase is Phase.ANSWER:
            self._last = True
        else:
            self._finish()

    # -- answers in --------------------------------------------------------------------------------

    def refuse(self, status: int, why: str = "") -> None:
        """Answer what cannot be read as a request, and end."""
        if self._h11 is not None and self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = b"" if status == 413 else why.encode()
            self._send(Response(status, _BAD_REQUEST_HEADERS, body), close=True)
        self._finish()

    def send_response(self, response: Response) -> None:
        """Answer the request that waits."""
        if response.status == 101:
            self._upgrade()
            return
        self._send(response, close=False)
        assert self._h11 is not None
        reusable = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if reusable and not self._last:
            self._h11.start_next_cycle()
            self._head = None
            self._key = None
            self.phase = Phase.HEAD
            ahead, self._ahead = self._ahead, []
            self._seen_bytes = bool(ahead) or bool(self._h11.trailing_data[0])
            for data in ahead:
                self.receive_data(data)
            if not ahead:
                self._read_requests()
        else:
            self._finish()

    def _send(self, response: Response, *, close: bool) -> None:
        assert self._h11 is not None
        headers = [*response.headers]
        # RFC 9110 8.6: 204 and 304 say no length of a body that they do not have.
        if response.status not in (204, 304):
            headers.append(("content-length", str(len(response.body))))
        if close:
            headers.append(("connection", "close"))
        head = h11.Response(status_code=response.status, headers=headers, reason=b"")
        self._queue(self._h11.send(head))
        if response.body and (self._head is None or self._head.method != "HEAD"):
            self._queue(self._h11.send(h11.Data(data=response.body)))
        self._queue(self._h11.send(h11.EndOfMessage()))

    def _upgrade(self) -> None:
        assert self._h11 is not None
        assert self._key is not None
        headers = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", accept_token(self._key)),
        ]
        self._queue(self._h11.send(h11.InformationalResponse(status_code=101, headers=headers)))
        early = [self._h11.trailing_data[0], *self._ahead]
        self._h11 = self._head = self._key = None
        self._ahead = []
        self.phase = Phase.UPGRADED
        self.websocket = WebSocket(
            max_message=self._config.max_payload, max_fragments=self._config.max_fragments
        )
        for data in early:  # frames that came in the same read as the handshake
            if data:
                self.receive_data(data)

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
            self._out_size += len(data)

    def _finish(self) -> None:
        self.phase = Phase.OVER
        self._end = True
        self._ahead = []
        self._body = []

    def end(self) -> None:
        """End after what is queued."""
        self._finish()

    @property
    def out_size(self) -> int:
        """Bytes that are queued."""
        return self._out_size

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
        self._out_size -= len(data)
        end = self._end and not self._out
        if end:
            self._end = False
        return Chunk(data, end)
