"""The byte door: an Endpoint, and one HTTP connection for each socket.

Rules of this file: bytes are made when they are pulled. A runtime calls `connected`,
`receive_data`, `receive_eof`, `connection_lost`; polls outputs until there is none; on WantWrite
pulls `data_to_send` while the socket has room, says `write_blocked` when it has not; and keeps one
timer for `next_timeout`. Each connection has at most one timer, that of the phase it is in.
"""

from tokenwire.config import Config
from tokenwire.endpoint import Endpoint
from tokenwire.errors import LocalProtocolError
from tokenwire.http.connection import HttpConnection, Phase
from tokenwire.http.events import MessageReceived
from tokenwire.outputs import Abort, PauseReading, ResumeReading
from tokenwire.timers import Timer
from tokenwire.types import Chunk, ConnId, IdSource, Millis, Peer, Request

_NOTHING = Chunk(b"")


class _Link:
    """One socket."""

    __slots__ = ("http", "in_body", "paused", "served", "timer")

    def __init__(self, http: HttpConnection) -> None:
        self.http = http
        self.timer: Timer | None = None
        self.in_body = False
        """True: the head of a request was handed on, its body is still coming."""
        self.served = False
        """True: a first request was answered."""
        self.paused = False
        """True: the runtime was told to read no more."""

    def wanted_timer(self) -> Timer | None:
        """Return the timer of the phase that the connection is in."""
        http = self.http
        match http.phase:
            case Phase.HEAD if http.out_size:
                return Timer.HTTP_WRITE
            case Phase.HEAD:
                idle = http.idle and self.served
                return Timer.HTTP_KEEP_ALIVE if idle else Timer.HTTP_HEADERS
            case Phase.BODY:
                return Timer.HTTP_BODY
            case Phase.ANSWER:
                return None  # a poll may wait: the session's heartbeat bounds it
            case Phase.UPGRADED:
                return Timer.CLOSE if http.close_sent else None
            case Phase.DRAIN:
                return Timer.CLOSE
            case _:  # Phase.OVER
                return Timer.HTTP_WRITE if http.out_size else Timer.CLOSE


class Server(Endpoint):
    """A server of Socket.IO and of the AI protocol, over sockets.

    It is an Endpoint whose requests and messages come out of bytes.
    """

    def __init__(self, config: Config, *, ids: IdSource) -> None:
        super().__init__(config, ids=ids)
        self._links: dict[ConnId, _Link] = {}
        self._spans = {
            Timer.HTTP_HEADERS: config.header_timeout,
            Timer.HTTP_BODY: config.body_timeout,
            Timer.HTTP_WRITE: config.write_timeout,
            Timer.HTTP_KEEP_ALIVE: config.keep_alive_timeout,
            Timer.CLOSE: config.close_timeout,
        }

    # -- inputs ------------------------------------------------------------------------------------

    def connected(self, peer: Peer, now: Millis) -> ConnId:
        """A socket was accepted. Return the name of its connection."""
        conn = super().connected(peer, now)
        link = _Link(HttpConnection(peer, self.config))
        self._links[conn] = link
        self._keep_timer(conn, link, now)
        return conn

    def receive_data(self, conn: ConnId, data: bytes, now: Millis) -> None:
        """Take what the socket received, cut anywhere.

        Raises:
            LocalProtocolError: there is no such connection (any more).
        """
        link = self._link(conn)
        link.http.receive_data(data)
        self._advance(conn, link, now)
        if link.http.reads_ahead and not link.paused:
            link.paused = True
            self.outputs.put(PauseReading(conn))

    def receive_eof(self, conn: ConnId, now: Millis) -> None:
        """The peer sends no more: a request that waits is still answered.

        Raises:
            LocalProtocolError: there is no such connection (any more).
        """
        link = self._link(conn)
        if link.http.phase is Phase.UPGRADED:
            super().connection_lost(conn, now)
        elif link.http.phase is Phase.ANSWER:
            super().receive_eof(conn, now)
        link.http.receive_eof()
        self._advance(conn, link, now)

    def connection_lost(self, conn: ConnId, now: Millis) -> None:
        """The socket is gone, whoever closed it. Harmless when said twice."""
        link = self._links.pop(conn, None)
        if link is not None:
            if link.timer is not None:
                self.timers.clear(link.timer, conn)
            super().connection_lost(conn, now)

    def _link(self, conn: ConnId) -> _Link:
        link = self._links.get(conn)
        if link is None:
            raise LocalProtocolError("no such connection")
        return link

    def _advance(self, conn: ConnId, link: _Link, now: Millis) -> None:
        """Hand on what the bytes meant."""
        http = link.http
        head = http.head
        if link.in_body is not (head is not None):
            link.in_body = head is not None
            if head is None:
                self._engine.body_ends(conn)
            elif self._is_ours(head):
                self._engine.body_begins(conn, head)
        for event in http.take_events():
            match event:
                case Request():
                    self.receive_request(conn, event, now)
                case MessageReceived():
                    self.receive_message(conn, event.message, now)
                case _:  # WebSocketClosed
                    super().connection_lost(conn, now)
        if http.has_output:
            self.outputs.want_write(conn)
        self._keep_timer(conn, link, now)

    def _keep_timer(self, conn: ConnId, link: _Link, now: Millis) -> None:
        wanted = link.wanted_timer()
        if wanted is link.timer:
            return
        if link.timer is not None:
            self.timers.clear(link.timer, conn)
        link.timer = wanted
        if wanted is not None:
            self.timers.set(wanted, conn, now + self._spans[wanted])

    def _handle_timer(self, timer: Timer, key: int | str, now: Millis) -> None:
        if timer not in self._spans:
            super()._handle_timer(timer, key, now)
            return
        conn = ConnId(int(key))
        link = self._links[conn]
        link.timer = None
        match timer:
            case Timer.HTTP_HEADERS | Timer.HTTP_BODY:
                link.http.refuse(408, "the request did not come in time")
                self._advance(conn, link, now)
            case Timer.CLOSE | Timer.HTTP_WRITE if link.http.phase is not Phase.DRAIN:
                # The peer does not answer our close, or does not read its answer.
                self.outputs.put(Abort(conn, timer.value))
            case _:
                link.http.end()
                self._advance(conn, link, now)

    # -- outputs -----------------------------------------------------------------------------------

    def data_to_send(self, conn: ConnId, max_bytes: int, now: Millis) -> Chunk:
        """Return what to write to the socket now: at most `max_bytes`, nothing if there is nothing.

        To ask is to say that the socket has room. A connection that is gone has nothing.

        Raises:
            LocalProtocolError: `max_bytes` is less than 1.
        """
        if max_bytes < 1:
            raise LocalProtocolError("max_bytes must be at least 1")
        link = self._links.get(conn)
        if link is None:
            return _NOTHING
        http = link.http
        messages: list[bytes] = []
        if http.phase is Phase.ANSWER:
            response = self.response_to_send(conn, now)
            if response is not None:
                link.served = True
                http.send_response(response)
                self._advance(conn, link, now)
        early = http.early
        if http.phase is Phase.UPGRADED and http.out_size < max_bytes:
            self.messages_to_send(conn, messages, max_bytes - http.out_size, now)
            if messages:
                http.send_messages(messages)
            if early:
                http.receive_early()
            code = self._engine.close_code(conn)
            if code is not None:
                http.close_websocket(code)
                self._keep_timer(conn, link, now)
            if http.events:
                self._advance(conn, link, now)
        if link.paused and not http.reads_ahead:
            link.paused = False
            self.outputs.put(ResumeReading(conn))
        chunk = http.take(max_bytes)
        if link.timer is not None or http.phase is Phase.HEAD:
            self._keep_timer(conn, link, now)
            if chunk.data and link.timer is Timer.HTTP_WRITE:  # it takes what it is sent
                self.timers.set(Timer.HTTP_WRITE, conn, now + self.config.write_timeout)
        if not messages:  # else the engine knows
            self._engine.pulled(conn, len(chunk.data), now)
        if chunk.end:
            return chunk
        if not chunk.data:
            self.outputs.pulled_empty(conn)
        elif http.phase is Phase.UPGRADED and len(chunk.data) < max_bytes and not early:
            # All that waited had room. (What answers early frames was not asked for.)
            self.outputs.pulled_empty(conn)
            return Chunk(chunk.data, last=True)
        return chunk
