"""Engine.IO in the client's role: one session over polling, WebSocket, or first one and then both.

Rules of this file: a session has up to three connections, each with a role. An upgrade loses and
doubles nothing: polling is let go of only when its GET and its POST have come back, and only then
is `5` sent. A failed upgrade leaves polling as it was. What is sent waits in one queue, and is made
into bytes when the socket has room; a session that is closed says all of it first, in bounded time.
"""

import enum
from collections import deque
from collections.abc import Callable
from typing import Annotated, Protocol, assert_never
from urllib.parse import urlencode

import msgspec

from tokenwire.client.config import ClientConfig, Transport
from tokenwire.client.outputs import ClientOutput, Dial
from tokenwire.errors import RemoteProtocolError
from tokenwire.http.client import ClientConnection, Failed, Message, Opened, Phase
from tokenwire.outputs import Abort, WantWrite
from tokenwire.timers import Timer, Timers
from tokenwire.types import Chunk, ConnId, IdSource, Millis, Request, Response
from tokenwire.wire import Binary
from tokenwire.wire import engineio as wire

_MAX_PACKETS = 4_096  # in one answer to a poll
_IDLE_LIMIT = 4_000  # ms; Node's server closes an idle connection after 5 s
_SEPARATOR = 1  # byte between two packets of a payload
_TIMERS = (Timer.CONNECT, Timer.PONG, Timer.UPGRADE, Timer.CLOSING)


class Role(enum.Enum):
    GET = "get"  # the handshake, then polls
    POST = "post"
    WEBSOCKET = "websocket"  # the transport, or what asks to become it


class State(enum.Enum):
    CLOSED = "closed"
    OPENING = "opening"  # the handshake is under way
    OPEN = "open"
    PROBING = "probing"  # polling carries the session; a WebSocket is being tried
    PAUSING = "pausing"  # the WebSocket works; polling has still to come back
    CLOSING = "closing"  # the last words are being said


_Span = Annotated[int, msgspec.Meta(ge=0)]


class _Open(msgspec.Struct, rename="camel"):
    """The handshake."""

    sid: Annotated[str, msgspec.Meta(min_length=1)]
    upgrades: list[str]
    ping_interval: _Span
    ping_timeout: _Span
    max_payload: _Span = 1_000_000


_NO_SESSION = _Open("", [], 0, 0)
_decode_open = msgspec.json.Decoder(_Open).decode


class Upper(Protocol):
    """The layer above the session."""

    def opened(self, now: Millis) -> None: ...

    def receive(self, message: bytes, now: Millis) -> None:
        """Take one message. RemoteProtocolError closes the session."""
        ...

    def closed(self, reason: str, detail: str, now: Millis) -> None: ...


class _Link:
    """One connection and what it is for."""

    __slots__ = ("conn", "http", "idle_since", "ready", "role")

    def __init__(self, conn: ConnId, role: Role, http: ClientConnection) -> None:
        self.conn = conn
        self.role = role
        self.http = http
        self.ready = False
        """True: the socket is open."""
        self.idle_since = 0


class EngineClient:
    """One session at a time."""

    def __init__(
        self,
        config: ClientConfig,
        outputs: deque[ClientOutput],
        timers: Timers,
        ids: IdSource,
        upper: Upper,
    ) -> None:
        self._config = config
        self._outputs = outputs
        self._timers = timers
        self._ids = ids
        self._upper = upper
        self._links: dict[ConnId, _Link] = {}
        self._last_conn = 0
        self._queue: deque[bytes] = deque()
        self._session = _NO_SESSION
        self.queued_bytes = 0
        """How much waits for a transport."""
        self.state = State.CLOSED
        self.transport: Transport = config.transports[0]
        """What carries the session, if there is one."""

    # -- the layer above ---------------------------------------------------------------------------

    def open(self, now: Millis) -> None:
        """Begin a session."""
        self.state = State.OPENING
        self.transport = self._config.transports[0]
        self._timers.set(Timer.CONNECT, 0, now + self._config.connect_timeout)
        self._dial(Role.GET if self.transport == "polling" else Role.WEBSOCKET)

    def send(self, message: bytes, now: Millis) -> None:
        """Queue a message: UTF-8 text, or Binary."""
        self._put(message if type(message) is Binary else wire.MESSAGE + message)
        self._flush(now)

    def close(self, now: Millis) -> None:
        """End the session once everything is said. Harmless when there is none."""
        if self.state in (State.CLOSED, State.CLOSING):
            return
        if self.state is State.OPENING:
            self._end("forced close", "", now)
            return
        if self.state in (State.PROBING, State.PAUSING):
            self._drop_probe()
        self.state = State.CLOSING
        self._timers.set(Timer.CLOSING, 0, now + self._config.close_timeout)
        if self.transport == "polling":  # a WebSocket has a close frame for it
            self._put(wire.CLOSE)
        self._flush(now)

    def _put(self, packet: bytes) -> None:
        self._queue.append(packet)
        self.queued_bytes += len(packet)

    # -- sockets -----------------------------------------------------------------------------------

    def _dial(self, role: Role) -> None:
        self._last_conn += 1
        conn = ConnId(self._last_conn)
        http = ClientConnection(
            self._config.host,
            max_bytes=self._config.max_message,
            max_fragments=self._config.max_fragments,
            ids=self._ids,
        )
        self._links[conn] = _Link(conn, role, http)
        self._outputs.append(Dial(conn))

    def _find(self, role: Role) -> _Link | None:
        for link in self._links.values():
            if link.role is role and link.http.phase is not Phase.OVER:
                return link
        return None

    def _idle(self, role: Role, now: Millis) -> _Link | None:
        """Return a connection that can take a request. None: one will say when it can."""
        link = self._find(role)
        if link is not None and link.http.phase is Phase.IDLE and link.ready:
            if now - link.idle_since < _IDLE_LIMIT:
                return link
            # The server may be closing it just now, and a POST must not be sent twice.
            self._release(link)
            link = None
        if link is None:
            self._dial(role)
        return None

    def _release(self, link: _Link, *, at_once: bool = False) -> None:
        """Let go of a connection: behind what is queued, or at once."""
        link.http.close()
        if at_once or not link.ready:
            del self._links[link.conn]
            self._outputs.append(Abort(link.conn, "given up"))
        else:
            self._wake(link)

    def _wake(self, link: _Link) -> None:
        if link.conn in self._links:
            self._outputs.append(WantWrite(link.conn))

    def connected(self, conn: ConnId, now: Millis) -> None:
        """A dialled socket is open."""
        link = self._links.get(conn)
        if link is None:
            return
        link.ready = True
        link.idle_since = now
        match link.role:
            case Role.WEBSOCKET:
                link.http.send_upgrade(self._request("GET", "websocket"))
                self._wake(link)
            case Role.GET:
                self._poll(now)
            case Role.POST:
                self._flush(now)
            case _:
                assert_never(link.role)

    def receive_data(self, conn: ConnId, data: bytes, now: Millis) -> None:
        link = self._links.get(conn)
        if link is not None:
            link.http.receive_data(data)
            self._advance(link, now)

    def receive_eof(self, conn: ConnId, now: Millis) -> None:
        link = self._links.get(conn)
        if link is not None:
            link.http.receive_eof()
            self._advance(link, now)

    def connection_lost(self, conn: ConnId, now: Millis) -> None:
        link = self._links.pop(conn, None)
        if link is None:
            return
        if link.ready:
            link.http.receive_eof()
            self._advance(link, now)
        else:
            self._failed(link, "the server cannot be reached", now)

    def data_to_send(self, conn: ConnId, max_bytes: int) -> Chunk:
        link = self._links.get(conn)
        if link is None:
            return Chunk(b"")
        carries = link.role is Role.WEBSOCKET and self.transport == "websocket"
        if carries and link.http.phase is Phase.OPEN:
            link.http.send_messages(self._take_packets(max_bytes - link.http.out_size, len))
            if self.state is State.CLOSING and not self._queue:
                link.http.leave()
        chunk = link.http.take(max_bytes)
        if chunk.end:
            del self._links[conn]
        return chunk

    def _request(self, method: str, transport: Transport, body: bytes = b"") -> Request:
        query = [("EIO", "4"), ("transport", transport), *self._config.query]
        if self._session.sid:
            query.append(("sid", self._session.sid))
        headers = self._config.headers
        if body:
            headers += (("content-type", "text/plain;charset=UTF-8"),)
        return Request(method, self._config.path, urlencode(query), headers, body)

    # -- what comes back ---------------------------------------------------------------------------

    def _advance(self, link: _Link, now: Millis) -> None:
        while link.http.events:  # as many as the bytes that came could hold
            event = link.http.events.popleft()
            match event:
                case Response():
                    self._answered(link, event, now)
                case Opened():
                    if self.transport == "polling" and link.http.phase is Phase.OPEN:
                        link.http.send_messages([wire.PING_PROBE])
                case Message():
                    self._message(event.message, now)
                case Failed():
                    self._failed(link, event.reason, now)
                case _:
                    assert_never(event)
        if link.http.has_output:
            self._wake(link)

    def _answered(self, link: _Link, response: Response, now: Millis) -> None:
        if response.status != 200:
            self._end("transport error", f"the server answered with status {response.status}", now)
            return
        link.idle_since = now
        if link.role is Role.GET:
            self._take_payload(response.body, now)
        match self.state:
            case State.PAUSING:
                self._finish_upgrade(now)
            case State.OPEN | State.PROBING:
                if link.role is Role.GET:
                    self._poll(now)
                self._flush(now)
            case State.CLOSING:
                if link.role is Role.POST and not self._queue:
                    self._end("forced close", "", now)
                else:
                    self._flush(now)
            case _:
                pass

    def _take_payload(self, body: bytes, now: Millis) -> None:
        try:
            packets = wire.decode_payload(body, max_packets=_MAX_PACKETS)
        except RemoteProtocolError as error:
            self._end("parse error", str(error), now)
            return
        for packet in packets:
            self._packet(packet, now)

    def _message(self, message: bytes, now: Millis) -> None:
        if self.transport == "websocket":
            self._packet(message, now)
        elif self.state is State.PROBING and message == wire.PONG_PROBE:
            self.state = State.PAUSING
            self._finish_upgrade(now)
        else:
            self._fail_upgrade(now)

    def _failed(self, link: _Link, reason: str, now: Millis) -> None:
        if link.role is Role.WEBSOCKET and self.transport == "polling":
            self._fail_upgrade(now)
        elif link.role is Role.WEBSOCKET and self.state is not State.OPENING:
            self._end("transport close", reason, now)
        else:
            self._end("transport error", reason, now)

    def _packet(self, packet: bytes, now: Millis) -> None:
        if self.state is State.CLOSED:  # by a packet before it
            return
        try:
            self._take(packet, now)
        except RemoteProtocolError as error:
            self._end("parse error", str(error), now)

    def _take(self, packet: bytes, now: Millis) -> None:
        kind, data = packet[:1], packet[1:]
        if self.state is State.OPENING:
            self._opened(packet, now)
        elif type(packet) is Binary:
            self._upper.receive(packet, now)
        elif kind == wire.MESSAGE:
            self._upper.receive(data, now)
        elif kind == wire.PING:
            self._expect_ping(now)
            self._queue.appendleft(wire.PONG)  # what waits may be much
            self.queued_bytes += len(wire.PONG)
            self._flush(now)
        elif kind == wire.CLOSE:
            self._end("transport close", "the server closed the session", now)
        elif kind != wire.NOOP:
            raise RemoteProtocolError("an Engine.IO packet that a server does not send")

    def _opened(self, packet: bytes, now: Millis) -> None:
        if type(packet) is Binary or packet[:1] != wire.OPEN:
            raise RemoteProtocolError("a packet before the handshake")
        try:
            self._session = _decode_open(packet[1:])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RemoteProtocolError("the handshake cannot be read") from error
        self.state = State.OPEN
        self._timers.clear(Timer.CONNECT, 0)
        self._expect_ping(now)
        self._upper.opened(now)
        both = self._config.upgrade and "websocket" in self._config.transports
        if both and self.transport == "polling" and "websocket" in self._session.upgrades:
            self.state = State.PROBING
            self._timers.set(Timer.UPGRADE, 0, now + self._config.upgrade_timeout)
            self._dial(Role.WEBSOCKET)

    def _expect_ping(self, now: Millis) -> None:
        span = self._session.ping_interval + self._session.ping_timeout
        self._timers.set(Timer.PONG, 0, now + span)

    # -- the upgrade -------------------------------------------------------------------------------

    def _finish_upgrade(self, now: Millis) -> None:
        """Send `5` once neither a GET nor a POST is under way."""
        polls = [link for link in self._links.values() if link.role is not Role.WEBSOCKET]
        if any(link.http.phase is Phase.WAITING for link in polls):
            return
        probe = self._find(Role.WEBSOCKET)
        if probe is None:  # it has ended already, as its next event will say
            return
        probe.http.send_messages([wire.UPGRADE])
        for link in polls:
            self._release(link)
        self.state = State.OPEN
        self.transport = "websocket"
        self._timers.clear(Timer.UPGRADE, 0)
        self._wake(probe)

    def _fail_upgrade(self, now: Millis) -> None:
        """Go on with polling: nobody was told to stop it."""
        self._drop_probe()
        self.state = State.OPEN
        self._poll(now)
        self._flush(now)

    def _drop_probe(self) -> None:
        self._timers.clear(Timer.UPGRADE, 0)
        probe = self._find(Role.WEBSOCKET)
        if probe is not None:
            self._release(probe)

    # -- sending -----------------------------------------------------------------------------------

    def _poll(self, now: Millis) -> None:
        """Ask for what the server has; the first answer is the handshake."""
        if self.state not in (State.OPENING, State.OPEN, State.PROBING):
            return
        link = self._idle(Role.GET, now)
        if link is not None:
            link.http.send_request(self._request("GET", "polling"))
            self._wake(link)

    def _flush(self, now: Millis) -> None:
        """Send what waits, as far as it is its turn."""
        if self.transport == "websocket":
            link = self._find(Role.WEBSOCKET)
            if link is not None:
                self._wake(link)
        elif self._queue and self.state is not State.PAUSING:
            link = self._idle(Role.POST, now)
            if link is not None:
                room = self._session.max_payload + _SEPARATOR
                body = wire.encode_payload(self._take_packets(room, _size_in_body))
                link.http.send_request(self._request("POST", "polling", body))
                self._wake(link)

    def _take_packets(self, room: int, size: Callable[[bytes], int]) -> list[bytes]:
        """Take as many packets as there is room for, at least one where there is any room."""
        packets: list[bytes] = []
        while self._queue and room > 0:
            room -= size(self._queue[0])
            if packets and room < 0:
                break
            packets.append(self._queue.popleft())
            self.queued_bytes -= len(packets[-1])
        return packets

    # -- ends --------------------------------------------------------------------------------------

    def timed_out(self, timer: Timer, now: Millis) -> None:
        match timer:
            case Timer.UPGRADE:
                self._fail_upgrade(now)
            case Timer.PONG:
                self._end("ping timeout", "the server does not ping", now, at_once=True)
            case _:
                self._end("timeout", "the server does not answer", now, at_once=True)

    def _end(self, reason: str, detail: str, now: Millis, *, at_once: bool = False) -> None:
        self.state = State.CLOSED
        self._session = _NO_SESSION
        self._queue.clear()
        self.queued_bytes = 0
        for timer in _TIMERS:
            self._timers.clear(timer, 0)
        for link in list(self._links.values()):
            self._release(link, at_once=at_once)
        self._upper.closed(reason, detail, now)


def _size_in_body(packet: bytes) -> int:
    """Return what a packet takes of a polling payload, with its separator."""
    size = 1 + (len(packet) + 2) // 3 * 4 if type(packet) is Binary else len(packet)
    return size + _SEPARATOR
