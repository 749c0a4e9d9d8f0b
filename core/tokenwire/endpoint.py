"""The message door: whole requests and WebSocket messages in, answers and packets out.

Rules of this file: it composes the layers and decides nothing itself but which of them takes an
input. A connection here is one HTTP request, or one WebSocket. An input about a connection that is
not there any more does nothing: the world may be late. A call that could never be right raises
LocalProtocolError and changes nothing.
"""

import re

import msgspec

from tokenwire.ai.service import AiService
from tokenwire.ai.stats import Stats
from tokenwire.ai.upstream import Health
from tokenwire.config import Config
from tokenwire.engineio.plain import PlainServer
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import HttpRequest, Notice, Output, Stopped
from tokenwire.program import Program
from tokenwire.queue import Outputs
from tokenwire.socketio.server import TIMERS as SOCKET_TIMERS
from tokenwire.socketio.server import SocketServer
from tokenwire.timers import Timer, Timers
from tokenwire.types import ConnId, Deadline, IdSource, Millis, Peer, Request, Response, StreamId
from tokenwire.wire import engineio as wire
from tokenwire.wire.trace import describe

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_FIELD_VALUE = re.compile(r"([!-~]([\t -~]*[!-~])?)?")
_HTTP_LAYERS_OWN = ("content-length", "transfer-encoding", "connection", "date")

_SHUTDOWN_STEP = 50  # how often a shutdown looks whether all has been taken
_ENGINE_TIMERS = (Timer.SLOW, Timer.PING, Timer.PONG, Timer.UPGRADE, Timer.CLOSING)


class Endpoint(Program):
    """A server of Socket.IO and of the AI protocol, over somebody else's HTTP."""

    def __init__(self, config: Config, *, ids: IdSource) -> None:
        self.config = config
        self.outputs = Outputs()
        self.timers = Timers()
        self._sockets = SocketServer(config, self.outputs, self.timers, ids)
        self._plain = PlainServer(config, self.outputs, self.timers, ids)
        plain = config.protocol == "engine.io"
        self._engine = self._plain.engine if plain else self._sockets.engine
        self._ai: AiService | None = None
        if config.ai_namespace is not None:
            self._ai = AiService(config, self.outputs, self.timers, ids)
            self._sockets.add_namespace(config.ai_namespace, self._ai)
        self._last_conn = 0
        self._now = Millis(0)
        """When the latest request, message or timeout came."""
        self._stop_at: Millis | None = None
        self._program_requests: dict[ConnId, None] = {}
        self._program_responses: dict[ConnId, Response] = {}

    # -- inputs: connections -----------------------------------------------------------------------

    def connected(self, peer: Peer, now: Millis) -> ConnId:
        """A request or a WebSocket is coming. Return the name of its connection."""
        self._last_conn += 1
        return ConnId(self._last_conn)

    def receive_request(self, conn: ConnId, request: Request, now: Millis) -> None:
        """Take a whole request. Its answer comes from `response_to_send`, after a WantWrite."""
        self._now = now
        if self._is_ours(request):
            if self.config.trace and request.body:
                self._trace(
                    "packet_in",
                    conn,
                    request.body.split(wire.SEPARATOR, self.config.max_packets_per_post),
                )
            self._engine.receive_request(conn, request, now)
        else:
            self._program_requests[conn] = None
            self.outputs.put(HttpRequest(conn, request))

    def _is_ours(self, request: Request) -> bool:
        return request.path in (self.config.path, self.config.path[:-1])

    def receive_message(self, conn: ConnId, message: bytes, now: Millis) -> None:
        """Take one WebSocket message: UTF-8 `bytes` for text, `Binary` for binary."""
        self._now = now
        if self.config.trace:
            self._trace("packet_in", conn, [message])
        self._engine.receive_message(conn, message, now)

    def connection_lost(self, conn: ConnId, now: Millis) -> None:
        """The request was abandoned, or the WebSocket is closed."""
        self._program_requests.pop(conn, None)
        self._program_responses.pop(conn, None)
        self._engine.connection_lost(conn, now)
        self.outputs.pulled_empty(conn)

    def receive_eof(self, conn: ConnId, now: Millis) -> None:
        """The client sends no more. It has aborted its poll; another request is still answered."""
        self._engine.receive_eof(conn, now)

    def write_blocked(self, conn: ConnId, now: Millis) -> None:
        """The socket takes no more for now. The next pull says that it does again."""
        self._engine.write_blocked(conn, now)

    def handle_timeout(self, now: Millis) -> None:
        """Do what is due. Extra calls are harmless."""
        self._now = now
        for timer, key in self.timers.due(now):
            self._handle_timer(timer, key, now)

    def _handle_timer(self, timer: Timer, key: int | str, now: Millis) -> None:
        if timer in _ENGINE_TIMERS:
            self._engine.handle_timer(timer, str(key), now)
        elif timer is Timer.UNREAD:
            self._engine.drop_unread(ConnId(int(key)))
        elif timer in SOCKET_TIMERS:
            self._sockets.handle_timer(timer, str(key), now)
        elif self._ai is None or self._ai.handle_timer(timer, key, now):  # of a shutdown
            self._finish(now)

    # -- inputs: answers to earlier outputs --------------------------------------------------------

    def respond(self, conn: ConnId, response: Response, now: Millis) -> None:
        """Answer an HttpRequest.

        Raises:
            LocalProtocolError: the response cannot be sent, or the request was answered before.
        """
        _check_response(response)
        if conn in self._program_responses:
            raise LocalProtocolError("this request has been answered")
        if conn in self._program_requests:  # else: the client has gone meanwhile
            del self._program_requests[conn]
            self._program_responses[conn] = response
            self.outputs.want_write(conn)

    def upstream_answered(self, stream: StreamId, status: int, now: Millis) -> None:
        """The model server has begun to answer a StartUpstream, with this HTTP status."""
        if self._ai is not None:
            self._ai.upstreams.receive_status(stream, status, now)

    def receive_upstream(self, stream: StreamId, data: bytes, now: Millis) -> None:
        """A piece of the model server's answer, cut anywhere."""
        if self._ai is not None:
            self._ai.upstreams.receive(stream, data, now)

    def upstream_eof(self, stream: StreamId, now: Millis) -> None:
        """The model server's answer has ended as HTTP says."""
        if self._ai is not None:
            self._ai.upstreams.receive_eof(stream, now)

    def upstream_failed(self, stream: StreamId, now: Millis, *, reached: bool) -> None:
        """There is no (more) answer: `reached` tells if a connection had been made."""
        if self._ai is not None:
            self._ai.upstreams.receive_failure(stream, reached=reached, now=now)

    def upstream_probed(self, status: int | None, body: bytes, now: Millis) -> None:
        """The answer to a ProbeUpstream; None if there was none."""
        if self._ai is not None:
            self._ai.upstreams.probed(status, body, now)

    # -- inputs: what a program of plain Engine.IO wants -------------------------------------------

    def send(self, session: str, data: str | bytes, now: Millis) -> None:
        """Send a message over an Engine.IO session (`Config.protocol` "engine.io").

        Raises:
            LocalProtocolError: there is no such session (any more), or `data` is no Unicode text.
        """
        self._plain.send(session, data, now)

    def close(self, session: str, now: Millis) -> None:
        """Close an Engine.IO session behind what is queued.

        Raises:
            LocalProtocolError: there is no such session (any more).
        """
        self._plain.close(session, now)

    def shut_down(self, now: Millis) -> None:
        """Take nothing new, let running streams finish, close all transports; then `Stopped`."""
        self._engine.stop_accepting()
        if self._stop_at is not None:
            return
        self._stop_at = Millis(now + self.config.shutdown_timeout)
        if self._ai is None:
            self._finish(now)
        else:
            self._ai.shut_down(now)

    def _finish(self, now: Millis) -> None:
        """All streams have ended: close the transports once their clients have what is queued."""
        assert self._stop_at is not None
        waits = self._sockets.has_output() or self._plain.has_output()
        if waits and now < self._stop_at:
            self.timers.set(Timer.SHUTDOWN, 0, min(now + _SHUTDOWN_STEP, self._stop_at))
            return
        self._engine.close_all("server shutting down", now)
        self._sockets.program.forget_all()
        self.outputs.put(Stopped())

    # -- outputs -----------------------------------------------------------------------------------

    def poll(self) -> Output | None:
        """Return the next thing that the world should do, or None."""
        return self.outputs.poll()

    def response_to_send(self, conn: ConnId, now: Millis) -> Response | None:
        """Take the answer to a request, if it is there. Status 101 accepts a WebSocket."""
        response = self._program_responses.pop(conn, None)
        if response is None:
            response = self._engine.response_to_send(conn, now)
            polled = response is not None and response.status == 200 and response.body != b"ok"
            if self.config.trace and response is not None and polled:
                self._trace("packet_out", conn, response.body.split(wire.SEPARATOR))
        return response

    def messages_to_send(self, conn: ConnId, out: list[bytes], max_bytes: int, now: Millis) -> None:
        """Append messages for an accepted WebSocket to `out`, about `max_bytes` of them."""
        start = len(out)
        self._engine.messages_to_send(conn, out, max_bytes, now)
        if self.config.trace:
            self._trace("packet_out", conn, out[start:])

    def close_code(self, conn: ConnId) -> int | None:
        """Return the code with which to close the WebSocket once all is sent, or None."""
        return self._engine.close_code(conn)

    def _trace(self, event: str, conn: ConnId, packets: list[bytes]) -> None:
        for packet in packets:
            fields = (("conn", conn), ("packet", describe(packet)))
            self.outputs.put(Notice("debug", event, fields))

    # -- getters -----------------------------------------------------------------------------------

    def next_timeout(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self.timers.next()

    def stats(self) -> Stats:
        """Return a snapshot of the statistics.

        Pauses that go on count up to the latest request, message or timeout.

        Raises:
            LocalProtocolError: the AI protocol is switched off.
        """
        if self._ai is None:
            raise LocalProtocolError("there are no statistics without the AI protocol")
        stats = self._ai.stats(self._now)
        held = stats.bytes_held + self._sockets.bytes_held()
        return msgspec.structs.replace(stats, bytes_held=held)

    def memory_bound(self) -> int:
        """Return the sum of what clients can make the server hold (`Config.memory_bound`)."""
        return self.config.memory_bound()

    def upstream_status(self) -> Health:
        """Return what the last look at the model server found."""
        return "unknown" if self._ai is None else self._ai.upstreams.status


def _check_response(response: Response) -> None:
    """Check that a response of the program's can be sent (RFC 9110 5.5, 6.4.1)."""
    if not 200 <= response.status <= 599:
        raise LocalProtocolError(f"{response.status} is no status of a final answer")
    if response.status in (204, 304) and response.body:
        raise LocalProtocolError(f"a response with status {response.status} has no body")
    for name, value in response.headers:
        if not _FIELD_NAME.fullmatch(name) or name in _HTTP_LAYERS_OWN:
            raise LocalProtocolError(f"{name!r} is no header of a response, or not the program's")
        if not _FIELD_VALUE.fullmatch(value):
            raise LocalProtocolError(f"the header {name} cannot hold {value!r}")
