"""Engine.IO in the client's role: one session over polling, WebSocket, or first one and then both.

Rules of this file: a session has up to three connections, each with a role. An upgrade loses and
doubles nothing: polling is let go of only when its GET and its POST have come back, and only then
is `5` sent. A failed upgrade leaves polling as it was. What is sent waits in one queue.
"""

import enum
from collections import deque
from typing import Protocol
from urllib.parse import urlencode

import msgspec

from tokenwire.client.config import ClientConfig
from tokenwire.client.outputs import ClientOutput, Dial
from tokenwire.errors import RemoteProtocolError
from tokenwire.http.client import ClientConnection, Failed, Message, Opened, Phase
from tokenwire.outputs import WantWrite
from tokenwire.timers import Timer, Timers
from tokenwire.types import Chunk, ConnId, IdSource, Millis, Request, Response
from tokenwire.wire import Binary
from tokenwire.wire import engineio as wire

_KEY_BYTES = 16
_MAX_PACKETS = 4_096  # in one answer to a poll
_SLACK = 64  # a packet's share of a payload beside its data


class Role(enum.Enum):
    GET = "get"  # the handshake, then polls
    POST = "post"
    WEBSOCKET = "websocket"  # the transport, or what asks to become it


class State(enum.Enum):
    CLOSED = "closed"
    OPENING = "opening"  # the handshake is under way
    POLLING = "polling"
    PROBING = "probing"  # polling carries the session; a WebSocket is being tried
    PAUSING = "pausing"  # the WebSocket works; polling has still to come back
    WEBSOCKET = "websocket"


class _Open(msgspec.Struct, rename="camel"):
    """The handshake."""

    sid: str
    upgrades: list[str]
    ping_interval: int
    ping_timeout: int
    max_payload: int = 1_000_000


class Upper(Protocol):
    """The layer above the session."""

    def opened(self, now: Millis) -> None: ...

    def receive(self, message: bytes, now: Millis) -> None:
        """Take one message. RemoteProtocolError closes the session."""
        ...

    def closed(self, reason: str, now: Millis) -> None: ...


class _Conn:
    """One connection and what it is for."""

    __slots__ = ("http", "ready", "role")

    def __init__(self, role: Role, http: ClientConnection) -> None:
        self.role = role
        self.http = http
        self.ready = False


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
        self._conns: dict[ConnId, _Conn] = {}
        self._last_conn = 0
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._session = _Open("", [], 0, 0)
        self.state = State.CLOSED

    @property
    def transport(self) -> str:
        return "websocket" if self.state is State.WEBSOCKET else "polling"

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    # -- the program -------------------------------------------------------------------------------

    def open(self, now: Millis) -> None:
        """Begin a session."""
        self.state = State.OPENING
        self._timers.set(Timer.CONNECT, 0, now + self._config.connect_timeout)
        first = self._config.transports[0]
        self._dial(Role.GET if first == "polling" else Role.WEBSOCKET)

    def send(self, packet: bytes, now: Millis) -> None:
        """Queue a message: UTF-8 text, or Binary."""
        self._put(packet if type(packet) is Binary else wire.MESSAGE + packet)
        self._flush(now)

    def _put(self, packet: bytes) -> None:
        self._queue.append(packet)
        self._queued_bytes += len(packet)

    def close(self, reason: str, now: Millis) -> None:
        """End the session, telling the server where that is possible."""
        if self.state is State.CLOSED:
            return
        for packet in [wire.CLOSE]:
            self._put(packet)
        if self.state is State.WEBSOCKET:
            self._push_frames()
        self._end(reason, now)

    # -- sockets -----------------------------------------------------------------------------------

    def _dial(self, role: Role) -> _Conn:
        self._last_conn += 1
        conn = ConnId(self._last_conn)
        http = ClientConnection(self._config.host, max_bytes=self._config.max_message)
        self._conns[conn] = link = _Conn(role, http)
        self._outputs.append(Dial(conn))
        return link

    def _find(self, role: Role) -> _Conn | None:
        for link in self._conns.values():
            if link.role is role and link.http.phase is not Phase.OVER:
                return link
        return None

    def connected(self, conn: ConnId, now: Millis) -> None:
        """A dialled socket is open."""
        link = self._conns.get(conn)
        if link is None:
            return
        link.ready = True
        if link.role is Role.WEBSOCKET:
            key = self._ids.random_bytes(_KEY_BYTES)
            link.http.send_upgrade(self._request("GET", "websocket"), key)
            self._wake(link)
        elif link.role is Role.GET:
            self._poll(link)
        else:
            self._flush(now)

    def receive_data(self, conn: ConnId, data: bytes, now: Millis) -> None:
        link = self._conns.get(conn)
        if link is not None:
            link.http.receive_data(data)
            self._advance(link, now)

    def receive_eof(self, conn: ConnId, now: Millis) -> None:
        link = self._conns.get(conn)
        if link is not None:
            link.http.receive_eof()
            self._advance(link, now)

    def connection_lost(self, conn: ConnId, now: Millis) -> None:
        link = self._conns.pop(conn, None)
        if link is not None and link.http.phase is not Phase.OVER:
            link.http.receive_eof()
            self._advance(link, now)

    def data_to_send(self, conn: ConnId, max_bytes: int) -> Chunk:
        link = self._conns.get(conn)
        if link is None:
            return Chunk(b"")
        chunk = link.http.take(max_bytes)
        if chunk.end:
            self._conns.pop(conn, None)
        return chunk

    def _wake(self, link: _Conn) -> None:
        for conn, known in self._conns.items():
            if known is link:
                self._outputs.append(WantWrite(conn))
                return

    def _request(self, method: str, transport: str, body: bytes = b"") -> Request:
        query = [("EIO", "4"), ("transport", transport), *self._config.query]
        if self._session.sid:
            query.append(("sid", self._session.sid))
        headers = self._config.headers
        if body:
            headers += (("content-type", "text/plain;charset=UTF-8"),)
        return Request(method, self._config.path, urlencode(query), headers, body)

    # -- what comes back ---------------------------------------------------------------------------

    def _advance(self, link: _Conn, now: Millis) -> None:
        while link.http.events:
            event = link.http.events.popleft()
            match event:
                case Response():
                    self._answered(link, event, now)
                case Opened():
                    self._websocket_open(link)
                case Message():
                    self._message(link, event.message, now)
                case Failed():
                    self._failed(link, event.reason, now)
        if link.http.has_output:
            self._wake(link)

    def _answered(self, link: _Conn, response: Response, now: Millis) -> None:
        if self.state is State.CLOSED:
            return
        if response.status != 200:
            self._end("transport error", now)
            return
        if link.role is Role.GET:
            try:
                packets = wire.decode_payload(response.body, max_packets=_MAX_PACKETS)
            except RemoteProtocolError:
                self._end("parse error", now)
                return
            for packet in packets:
                self._packet(packet, now)
        if self.state is State.PAUSING:
            self._finish_upgrade(now)
        elif self.state in (State.POLLING, State.PROBING):
            if link.role is Role.GET:
                self._poll(link if link.http.phase is Phase.IDLE else None)
            self._flush(now)

    def _poll(self, link: _Conn | None) -> None:
        if link is None:
            self._dial(Role.GET)
            return
        link.http.send_request(self._request("GET", "polling"))
        self._wake(link)

    def _websocket_open(self, link: _Conn) -> None:
        if self.state is State.PROBING:
            link.http.send_messages([wire.PING_PROBE])

    def _message(self, link: _Conn, message: bytes, now: Millis) -> None:
        if self.state is State.PROBING:
            if message == wire.PONG_PROBE:
                self.state = State.PAUSING
                self._finish_upgrade(now)
            else:
                self._drop_probe()
        elif self.state is not State.CLOSED:
            self._packet(message, now)

    def _failed(self, link: _Conn, reason: str, now: Millis) -> None:
        if self.state is State.CLOSED:
            return
        if link.role is Role.WEBSOCKET and self.state in (State.PROBING, State.PAUSING):
            self._drop_probe()
            if self.state is State.PAUSING:  # nobody was told to stop polling: go on
                self.state = State.POLLING
                if self._find(Role.GET) is None:
                    self._dial(Role.GET)
            self._flush(now)
        else:
            self._end("transport close" if link.ready else "transport error", now)

    def _packet(self, packet: bytes, now: Millis) -> None:
        if self.state is State.CLOSED:
            return
        try:
            self._take(packet, now)
        except RemoteProtocolError:
            self._end("parse error", now)

    def _take(self, packet: bytes, now: Millis) -> None:
        if type(packet) is Binary:
            self._upper.receive(packet, now)
            return
        kind, data = packet[:1], packet[1:]
        if kind == wire.MESSAGE:
            self._upper.receive(data, now)
        elif kind == wire.PING:
            self._expect_ping(now)
            self._put(wire.PONG)
            self._flush(now)
        elif kind == wire.CLOSE:
            self._end("transport close", now)
        elif kind == wire.OPEN:
            self._opened(data, now)
        elif kind != wire.NOOP:
            raise RemoteProtocolError("an Engine.IO packet that a server does not send")

    def _opened(self, data: bytes, now: Millis) -> None:
        if self.state is not State.OPENING:
            raise RemoteProtocolError("a second handshake")
        try:
            self._session = msgspec.json.decode(data, type=_Open)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RemoteProtocolError("the handshake cannot be read") from error
        self._timers.clear(Timer.CONNECT, 0)
        self._expect_ping(now)
        if self._config.transports[0] == "websocket":
            self.state = State.WEBSOCKET
        else:
            self.state = State.POLLING
            wanted = self._config.upgrade and "websocket" in self._config.transports
            if wanted and "websocket" in self._session.upgrades:
                self.state = State.PROBING
                self._dial(Role.WEBSOCKET)
        self._upper.opened(now)

    def _expect_ping(self, now: Millis) -> None:
        span = self._session.ping_interval + self._session.ping_timeout
        self._timers.set(Timer.PONG, 0, now + span)

    # -- the upgrade -------------------------------------------------------------------------------

    def _finish_upgrade(self, now: Millis) -> None:
        """Send `5` once neither a GET nor a POST is under way."""
        polls = [link for link in self._conns.values() if link.role is not Role.WEBSOCKET]
        if any(link.http.phase is Phase.WAITING for link in polls):
            return
        probe = self._find(Role.WEBSOCKET)
        assert probe is not None
        probe.http.send_messages([wire.UPGRADE])
        for link in polls:
            link.http.close()
            self._wake(link)
        self.state = State.WEBSOCKET
        self._wake(probe)
        self._flush(now)

    def _drop_probe(self) -> None:
        if self.state is State.PROBING:
            self.state = State.POLLING
        probe = self._find(Role.WEBSOCKET)
        if probe is not None:
            probe.http.close()
            self._wake(probe)

    # -- sending -----------------------------------------------------------------------------------

    def _flush(self, now: Millis) -> None:
        if not self._queue:
            return
        if self.state is State.WEBSOCKET:
            self._push_frames()
        elif self.state in (State.POLLING, State.PROBING):
            link = self._find(Role.POST)
            if link is None:
                self._dial(Role.POST)
            elif link.ready and link.http.phase is Phase.IDLE:
                link.http.send_request(self._request("POST", "polling", self._take_payload()))
                self._wake(link)

    def _push_frames(self) -> None:
        link = self._find(Role.WEBSOCKET)
        if link is not None:
            link.http.send_messages(list(self._queue))
            self._queue.clear()
            self._queued_bytes = 0
            self._wake(link)

    def _take_payload(self) -> bytes:
        """Return as many packets as the server takes in one body, at least one."""
        packets: list[bytes] = []
        room = self._session.max_payload
        while self._queue:
            packet = self._queue[0]
            size = len(packet) * 4 // 3 + _SLACK if type(packet) is Binary else len(packet) + 1
            if packets and size > room:
                break
            room -= size
            packets.append(packet)
            self._queued_bytes -= len(packet)
            self._queue.popleft()
        return wire.encode_payload(packets)

    # -- ends --------------------------------------------------------------------------------------

    def timed_out(self, timer: Timer, now: Millis) -> None:
        self._end("ping timeout" if timer is Timer.PONG else "timeout", now)

    def _end(self, reason: str, now: Millis) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self._session = _Open("", [], 0, 0)
        self._queue.clear()
        self._queued_bytes = 0
        self._timers.clear(Timer.CONNECT, 0)
        self._timers.clear(Timer.PONG, 0)
        for link in self._conns.values():
            link.http.close()
            self._wake(link)
        self._upper.closed(reason, now)
