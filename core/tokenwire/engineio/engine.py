"""The Engine.IO server: requests and WebSockets in, sessions, answers and packets out.

Rules of this file: a connection here is one HTTP request that waits for its answer, or one open
WebSocket; every request gets exactly one answer. Checks go from the cheap to the dear and before
anything is allocated: origin, query, session, method, size. What Node's server answers is followed
where stock clients can see it.
"""

from collections.abc import Callable
from urllib.parse import parse_qsl

from tokenwire.config import Config
from tokenwire.engineio.address import Addresses
from tokenwire.engineio.admission import Admission
from tokenwire.engineio.origins import Origins
from tokenwire.engineio.session import (
    ENDED,
    PARSE_ERROR,
    SLOW_CONSUMER,
    EngineSession,
    Input,
    State,
    Upper,
    WebSocket,
)
from tokenwire.errors import RemoteProtocolError
from tokenwire.outputs import Abort, Notice
from tokenwire.queue import Outputs
from tokenwire.timers import Timer, Timers
from tokenwire.types import ConnId, IdSource, Millis, Request, Response
from tokenwire.wire import Binary, ids, json
from tokenwire.wire import engineio as wire

_SID_BYTES = 15  # 120 bits, as Node's base64id
_MAX_QUERY_FIELDS = 32
_OWN_FIELDS = ("EIO", "transport", "sid")
_PYTHON_POLL_PACKETS = 16  # python-engineio's Payload.max_decode_packets; it drops what has more

UNKNOWN_TRANSPORT = (0, "Transport unknown")
UNKNOWN_SID = (1, "Session ID unknown")
BAD_HANDSHAKE_METHOD = (2, "Bad handshake method")
BAD_REQUEST = (3, "Bad request")
FORBIDDEN = (4, "Forbidden")
UNSUPPORTED_PROTOCOL = (5, "Unsupported protocol version")

_TEXT = (("content-type", "text/plain; charset=UTF-8"), ("cache-control", "no-store"))
_OK = Response(200, (("content-type", "text/html"), ("cache-control", "no-store")), b"ok")


class _Refused(Exception):
    """A request is answered with an error. Never leaves this file."""

    def __init__(self, error: tuple[int, str], status: int = 400) -> None:
        self.error = error
        self.status = status


class Engine:
    """All sessions of one server."""

    def __init__(
        self,
        config: Config,
        outputs: Outputs,
        timers: Timers,
        id_source: IdSource,
        open_upper: Callable[[EngineSession, Millis], Upper],
    ) -> None:
        self._config = config
        self._outputs = outputs
        self._timers = timers
        self._ids = id_source
        self._open_upper = open_upper
        self._origins = Origins(config.cors_origins, credentials=config.cors_credentials)
        self._addresses = Addresses(config.trusted_proxies)
        self._admission = Admission(config, outputs)
        self._sessions: dict[str, EngineSession] = {}
        self._responses: dict[ConnId, Response] = {}
        self._polls: dict[ConnId, EngineSession] = {}
        self._websockets: dict[ConnId, WebSocket] = {}
        self._fetching: dict[ConnId, str] = {}
        """Connections on which the answer to a poll may still be going out: the session's sid."""
        self._posting: dict[ConnId, str] = {}
        """Connections on which the body of a POST is still coming in: the session's sid."""
        self._accepting = True

    # -- HTTP --------------------------------------------------------------------------------------

    def receive_request(self, conn: ConnId, request: Request, now: Millis) -> None:
        """Take one request to the protocol's path."""
        self._fetched(conn)
        if not self._origins.allows(request):
            origin = request.header("origin") or ""
            self._outputs.put(Notice("warning", "origin_refused", (("origin", origin),)))
            self._respond(conn, _refusal(request, FORBIDDEN, 403))
            return
        if request.method == "OPTIONS":
            self._respond(conn, self._origins.preflight(request))
            return
        try:
            response = self._handle(conn, request, now)
        except _Refused as refused:
            response = _refusal(request, refused.error, refused.status)
        if response is not None:
            cors = self._origins.headers(request)
            self._respond(conn, Response(response.status, cors + response.headers, response.body))

    def body_begins(self, conn: ConnId, request: Request) -> None:
        """The head of a request has come. A POST that is whole before its body is one too many."""
        try:
            session = self._sessions.get(_query(request).get("sid", ""))
        except _Refused:
            return
        if session is None or request.method != "POST" or not self._origins.allows(request):
            return
        if session.posting is None:
            session.posting = conn
            self._posting[conn] = session.sid

    def body_ends(self, conn: ConnId) -> None:
        """The body is whole, or will not come."""
        session = self._sessions.get(self._posting.pop(conn, ""))
        if session is not None:
            session.posting = None

    def _handle(self, conn: ConnId, request: Request, now: Millis) -> Response | None:
        query = _query(request)
        transport = query.get("transport")
        if transport not in ("polling", "websocket"):
            raise _Refused(UNKNOWN_TRANSPORT)
        sid = query.get("sid")
        if sid is None:
            return self._handshake(conn, request, transport, query.get("EIO"), now)
        session = self._sessions.get(sid)
        if session is not None and self._timers.is_due(Timer.PONG, sid, now):
            self._pong_is_due(session, now)  # the timer's call may still be coming
            session = self._sessions.get(sid)
        if session is None:
            raise _Refused(UNKNOWN_SID)
        if query.get("EIO") != "4" or request.upgrade != (transport == "websocket"):
            raise _Refused(BAD_REQUEST)
        if request.upgrade:
            self._open_probe(conn, session, now)
            return Response(101)
        if session.state is State.WEBSOCKET:
            raise _Refused(BAD_REQUEST)
        match request.method:
            case "GET":
                return self._poll(conn, request, session, now)
            case "POST":
                return self._post(request, session, now)
            case _:
                return Response(405, (("allow", "GET, POST, OPTIONS"),))

    def _handshake(
        self, conn: ConnId, request: Request, transport: str, version: str | None, now: Millis
    ) -> Response:
        if request.method != "GET":
            raise _Refused(BAD_HANDSHAKE_METHOD)
        if request.upgrade != (transport == "websocket"):
            raise _Refused(BAD_REQUEST)
        if version != "4":
            raise _Refused(UNSUPPORTED_PROTOCOL)
        address = self._addresses.of(request)
        retry_after = self._admission.take_handshake(address, now) if self._accepting else 1
        if retry_after:
            return Response(503, (("retry-after", str(retry_after)),))
        sid = ids.text(self._ids.random_bytes(_SID_BYTES))
        heartbeat = (self._config.heartbeat_interval, self._config.heartbeat_timeout)
        agent = request.header("user-agent") or ""
        session = EngineSession(sid, agent, address, self._outputs, self._timers, heartbeat)
        if agent.lower().startswith("python"):
            session.poll_packets = _PYTHON_POLL_PACKETS
        self._sessions[sid] = session
        self._admission.opened(address)
        session.upper = self._open_upper(session, now)
        session.start_heartbeat(now)
        opening = wire.OPEN + json.encode(
            {
                "sid": sid,
                "upgrades": [] if request.upgrade else ["websocket"],
                "pingInterval": self._config.heartbeat_interval,
                "pingTimeout": self._config.heartbeat_timeout,
                "maxPayload": self._config.max_payload,
            }
        )
        if not request.upgrade:
            return Response(200, _TEXT, opening)
        session.state = State.WEBSOCKET
        session.ws = WebSocket(conn, session)
        session.ws.control.append(opening)
        self._websockets[conn] = session.ws
        return Response(101)

    def _poll(
        self, conn: ConnId, request: Request, session: EngineSession, now: Millis
    ) -> Response | None:
        if session.poll is not None:
            # Two polls at once: the older one hears that the session is over (Node: 200 `1`).
            self._close(session, "transport error", now)
            raise _Refused(BAD_REQUEST)
        if session.state is State.CLOSING:
            session.move(Input.FETCH)
            self._forget(session)
            return Response(200, _TEXT, wire.encode_payload([*session.control, wire.CLOSE]))
        session.poll = conn
        session.poll_blocked = False
        session.poll_headers = self._origins.headers(request)
        self._polls[conn] = session
        if session.has_output() or session.state is State.UPGRADING:
            session.wake()
        return None

    def _post(self, request: Request, session: EngineSession, now: Millis) -> Response:
        if session.state is State.CLOSING:
            raise _Refused(BAD_REQUEST)
        if session.posting is not None:
            self._close_or_lose(session, "transport error", now)
            raise _Refused(BAD_REQUEST)
        if len(request.body) > self._config.max_payload:
            return Response(413)
        try:
            if _media_type(request) == "application/octet-stream":
                raise RemoteProtocolError("Engine.IO v4 sends binary data as base64 text")
            packets = wire.decode_payload(
                request.body, max_packets=self._config.max_packets_per_post
            )
            for packet in packets:
                if not session.receive_packet(packet, now):
                    self._lose(session, "transport close", now)
                if session.state in ENDED:
                    break
        except RemoteProtocolError as error:
            self._refuse_packet(session, error, now)
            raise _Refused(BAD_REQUEST) from error
        return _OK

    def _respond(self, conn: ConnId, response: Response) -> None:
        self._responses[conn] = response
        self._outputs.want_write(conn)

    def response_to_send(self, conn: ConnId, now: Millis) -> Response | None:
        """Take the answer to the request of `conn`, if there is one now.

        The answer to a poll is sealed here, at the first pull: what comes later goes into the next.
        """
        response = self._responses.pop(conn, None)
        if response is not None:
            return response
        session = self._polls.get(conn)
        if session is None:
            return None
        packets: list[bytes] = []
        session.pull_for_poll(packets, self._config.poll_bytes, now)
        if not packets:
            if session.state is not State.UPGRADING:
                return None
            packets = [wire.NOOP]
        session.progressed(conn, now)
        self._fetching[conn] = session.sid
        return self._take_poll(session, packets)

    def _take_poll(self, session: EngineSession, packets: list[bytes]) -> Response:
        """Return the answer to the poll that waits. It does not wait any more."""
        assert session.poll is not None
        del self._polls[session.poll]
        session.poll = None
        return Response(200, session.poll_headers + _TEXT, wire.encode_payload(packets))

    def _answer_poll(self, session: EngineSession, packets: list[bytes]) -> None:
        """Answer the poll that waits, if one does."""
        conn = session.poll
        if conn is not None:
            self._respond(conn, self._take_poll(session, packets))

    # -- WebSocket ---------------------------------------------------------------------------------

    def _open_probe(self, conn: ConnId, session: EngineSession, now: Millis) -> None:
        socket = WebSocket(conn, session)
        self._websockets[conn] = socket
        if session.state is not State.POLLING or session.probe is not None:
            # A second one: its handshake completes, then it is closed (a refusal breaks clients).
            socket.session = None
            self._close_websocket(socket, now)
            return
        session.probe = socket
        self._timers.set(Timer.UPGRADE, session.sid, now + self._config.upgrade_timeout)

    def receive_message(self, conn: ConnId, message: bytes, now: Millis) -> None:
        """Take one message of an open WebSocket."""
        socket = self._websockets.get(conn)
        session = None if socket is None else socket.session
        if socket is None or session is None or session.state in ENDED:
            return
        if socket is session.probe:
            self._receive_probe(session, socket, message, now)
            return
        try:
            if not session.receive_packet(message, now):
                self._close(session, "transport close", now)
        except RemoteProtocolError as error:
            self._refuse_packet(session, error, now)

    def _receive_probe(
        self, session: EngineSession, socket: WebSocket, message: bytes, now: Millis
    ) -> None:
        if type(message) is Binary:
            self._drop_probe(session, now)
        elif message == wire.PING_PROBE:
            session.move(Input.PROBE)
            if not socket.control:  # a second probe before the first answer has gone gets none
                socket.control.append(wire.PONG_PROBE)
            self._outputs.want_write(socket.conn)
            session.wake()  # the poll that waits is answered, so that the client can let go of it
        elif message == wire.UPGRADE:
            self._timers.clear(Timer.UPGRADE, session.sid)
            session.move(Input.UPGRADE)
            session.probe = None
            session.ws = socket
            self._answer_poll(session, [wire.NOOP])
            session.wake()
        else:
            self._drop_probe(session, now)

    def _drop_probe(self, session: EngineSession, now: Millis) -> None:
        """The upgrade has failed: polling goes on."""
        self._timers.clear(Timer.UPGRADE, session.sid)
        if session.state is State.UPGRADING:
            session.move(Input.PROBE_LOST)
        if session.probe is not None:
            session.probe.session = None
            self._close_websocket(session.probe, now)
            session.probe = None

    def messages_to_send(self, conn: ConnId, out: list[bytes], budget: int, now: Millis) -> None:
        """Append packets for an open WebSocket to `out`, about `budget` bytes of them."""
        socket = self._websockets.get(conn)
        if socket is None:
            return
        socket.blocked = False
        if socket.control:
            out.extend(socket.control)
            socket.control.clear()
        session = socket.session
        if session is not None and session.ws is socket:
            session.pull(out, budget, now)
            if out or session.stuck == conn:
                session.progressed(conn, now)

    def pulled(self, conn: ConnId, size: int, now: Millis) -> None:
        """The socket has room, and gets so many bytes."""
        session = self._session_on(conn)
        if session is not None:
            session.pulled(conn, size, now)

    def _session_on(self, conn: ConnId) -> EngineSession | None:
        """Return the session whose packets go out on this connection, if it is not over."""
        socket = self._websockets.get(conn)
        if socket is None:
            session = self._polls.get(conn) or self._sessions.get(self._fetching.get(conn, ""))
        else:
            session = socket.session
            if session is not None and session.ws is not socket:
                return None
        return session if session is not None and session.state not in ENDED else None

    def _fetched(self, conn: ConnId) -> None:
        """The answer to a poll is not going out on this connection any more."""
        session = self._sessions.get(self._fetching.pop(conn, ""))
        if session is not None and session.stuck == conn:
            session.not_stuck()

    def close_code(self, conn: ConnId) -> int | None:
        """Return the code with which to close the WebSocket after what was pulled, or None."""
        socket = self._websockets.get(conn)
        return None if socket is None else socket.close_code

    def write_blocked(self, conn: ConnId, now: Millis) -> None:
        socket = self._websockets.get(conn)
        if socket is not None:
            socket.blocked = True
        session = self._session_on(conn)
        if session is None:
            return
        session.refused(conn, now, self._config.slow_consumer_timeout)
        if session.poll == conn:
            session.poll_blocked = True
        if socket is not None or session.poll == conn:  # else: what waits was not offered
            session.upper.refused(now)

    def _close_websocket(self, socket: WebSocket, now: Millis, code: int = 1000) -> None:
        if socket.blocked:  # who reads again in time is told; nobody else would end the others
            self._timers.set(Timer.UNREAD, socket.conn, now + self._config.close_timeout)
        socket.close_code = code
        self._outputs.want_write(socket.conn)

    # -- ends --------------------------------------------------------------------------------------

    def connection_lost(self, conn: ConnId, now: Millis) -> None:
        """The request's connection or the WebSocket is gone."""
        self._responses.pop(conn, None)
        self._fetched(conn)
        self.body_ends(conn)
        session = self._polls.pop(conn, None)
        if session is not None:  # an aborted poll ends the session
            session.poll = None
            self._lose(session, "transport close", now)
            return
        self._timers.clear(Timer.UNREAD, conn)
        socket = self._websockets.pop(conn, None)
        if socket is None or socket.session is None:
            return
        if socket is socket.session.probe:
            socket.session.probe = None
            self._drop_probe(socket.session, now)
        else:
            self._lose(socket.session, "transport close", now)

    def receive_eof(self, conn: ConnId, now: Millis) -> None:
        """The request's client sends no more. With a poll that waits, that is how it aborts it."""
        session = self._polls.get(conn)
        if session is not None:
            self._lose(session, "transport close", now)

    def close_session(self, session: EngineSession, reason: str, now: Millis) -> None:
        """Close the transport, after what must still be said. Harmless on a closed one."""
        self._close(session, reason, now)

    def evict_session(self, session: EngineSession, reason: str, now: Millis) -> None:
        """End a session at once, to make room: what can hear it is told."""
        self._close_or_lose(session, reason, now)

    def abort_session(self, session: EngineSession, reason: str, now: Millis) -> None:
        """Drop the transport without writing what waits."""
        carrier = session.poll if session.ws is None else session.ws.conn
        conns = dict.fromkeys((carrier, session.stuck))
        fields = (("transport", session.transport), ("reason", reason))
        self._outputs.put(Notice("info", "session_aborted", fields))
        self._lose(session, reason, now)
        for conn in conns:
            if conn is not None:
                self._outputs.put(Abort(conn, reason))

    def _refuse_packet(
        self, session: EngineSession, error: RemoteProtocolError, now: Millis
    ) -> None:
        fields = (("transport", session.transport), ("why", str(error)))
        self._outputs.put(Notice("info", "packet_refused", fields))
        self._close_or_lose(session, PARSE_ERROR, now, error.close_code)

    def _close_or_lose(
        self, session: EngineSession, reason: str, now: Millis, code: int = 1000
    ) -> None:
        """End a session at once: what can hear it is told, and the next request finds nothing."""
        if session.ws is None and session.poll is None:
            self._lose(session, reason, now)
        else:
            self._close(session, reason, now, code)

    def _close(self, session: EngineSession, reason: str, now: Millis, code: int = 1000) -> None:
        """End a session whose peer can still be told."""
        if session.state in ENDED:
            return
        last_words = session.last_words()
        self._end(session, Input.CLOSE, reason, now)
        if session.ws is not None:
            session.ws.control.extend(last_words)
            self._close_websocket(session.ws, now, code)
        elif session.poll is not None:
            self._answer_poll(session, [*last_words, wire.CLOSE])
            session.move(Input.FETCH)
        else:
            session.control.extend(last_words)
            self._timers.set(Timer.CLOSING, session.sid, now + self._config.close_timeout)
            return
        self._forget(session)

    def _lose(self, session: EngineSession, reason: str, now: Millis) -> None:
        """End a session whose peer is gone, or has said so itself."""
        if session.state in ENDED:
            return
        self._end(session, Input.LOSE, reason, now)
        self._answer_poll(session, [wire.NOOP])
        self._forget(session)

    def _end(self, session: EngineSession, how: Input, reason: str, now: Millis) -> None:
        self._drop_probe(session, now)
        session.move(how)
        session.control.clear()
        self._timers.clear(Timer.PING, session.sid)
        self._timers.clear(Timer.PONG, session.sid)
        session.not_stuck()
        fields = (("transport", session.transport), ("reason", reason))
        self._outputs.put(Notice("debug", "session_closed", fields))
        session.upper.closed(reason, now)
        del session.upper

    def _forget(self, session: EngineSession) -> None:
        """Let go of a session that is over, in no cycle: those wait for Python's collector."""
        self._timers.clear(Timer.CLOSING, session.sid)
        del self._sessions[session.sid]
        if session.ws is not None:
            session.ws.session = None
        self._admission.closed(session.address)

    def stop_accepting(self) -> None:
        """Refuse new sessions from now on, with 503."""
        self._accepting = False

    def close_all(self, reason: str, now: Millis) -> None:
        for session in list(self._sessions.values()):
            self._close(session, reason, now)

    # -- timers ------------------------------------------------------------------------------------

    def drop_unread(self, conn: ConnId) -> None:
        """A WebSocket that was told to close has taken nothing since."""
        self._outputs.put(Abort(conn, "does not read"))

    def handle_timer(self, timer: Timer, sid: str, now: Millis) -> None:
        session = self._sessions[sid]
        match timer:
            case Timer.SLOW:
                self._slow_is_due(session, now)
            case Timer.PING:
                session.ping(now)
            case Timer.PONG:
                self._pong_is_due(session, now)
            case Timer.UPGRADE:
                self._drop_probe(session, now)
            case _:  # Timer.CLOSING: nobody came to hear it
                session.move(Input.LOSE)
                self._forget(session)

    def _slow_is_due(self, session: EngineSession, now: Millis) -> None:
        at = session.progress_at + self._config.slow_consumer_timeout
        if at > now:  # another connection of its has taken something
            self._timers.set(Timer.SLOW, session.sid, at)
        else:
            self.abort_session(session, SLOW_CONSUMER, now)

    def _pong_is_due(self, session: EngineSession, now: Millis) -> None:
        if session.pong_is_late(now):
            self._close_or_lose(session, "ping timeout", now)


def _media_type(request: Request) -> str:
    return (request.header("content-type") or "").partition(";")[0].strip().lower()


def _query(request: Request) -> dict[str, str]:
    """Return the protocol's own fields. A page may add others, and nobody looks at them."""
    try:
        fields = parse_qsl(request.query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError as error:
        raise _Refused(BAD_REQUEST) from error
    own = [field for field in fields if field[0] in _OWN_FIELDS]
    query = dict(own)
    if len(query) != len(own):  # one of them twice: which would count?
        raise _Refused(BAD_REQUEST)
    return query


def _refusal(request: Request, error: tuple[int, str], status: int) -> Response:
    code, message = error
    if request.upgrade:  # before the 101, Node answers in plain text
        return Response(status, (("content-type", "text/plain"),), message.encode())
    body = json.encode({"code": code, "message": message})
    return Response(status, (("content-type", "application/json"),), body)
