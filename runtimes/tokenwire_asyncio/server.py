"""The asyncio runtime: sockets and a clock around the core.

Rules of this file: no protocol is known here. An input is followed by `_pump`, which carries out
all outputs and sets the one timer. `asyncio.Protocol` rather than streams: a token costs a fifth.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from typing import TypeVar, cast

from tokenwire import Server
from tokenwire.outputs import (
    Abort,
    CancelUpstream,
    HttpRequest,
    Notice,
    PauseReading,
    PauseUpstream,
    ProbeUpstream,
    ProgramEvent,
    ResumeReading,
    ResumeUpstream,
    StartUpstream,
    Stopped,
    WantWrite,
)
from tokenwire.types import ConnId, Millis, Peer, Request, Response

from tokenwire_asyncio.upstream import UpstreamClient, Upstreams

_WRITE_BYTES = 16 * 1024  # one pull; the next one shows that a slow reader has taken it
_NOTSENT_BYTES = 16 * 1024  # the kernel's share of what waits; without it, megabytes
_BACKLOG = 1024
_DRAIN_LIMIT = 1.0  # seconds that readers have, after all is said, for what is on its way
# Python 3.12 names it; None: this system has none.
_TCP_NOTSENT_LOWAT: int | None = getattr(
    socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None
)

_millis = cast(Callable[[float], Millis], int)  # Millis itself is a call in Python, at each token

T = TypeVar("T")
_log = logging.getLogger("tokenwire")


def now() -> Millis:
    """Return the event loop's time: the one by which its timers run."""
    return _millis(asyncio.get_running_loop().time() * 1000)


def _not_found(request: Request) -> Response:
    return Response(404)


def _ignore(output: ProgramEvent | Notice) -> None:
    """Nobody has asked for these."""


def _call(name: str, callback: Callable[[T], None], output: T) -> None:
    """Call the program. What it raises is its own fault, and not the end of the server."""
    try:
        callback(output)
    except Exception:
        _log.exception("the program's %s raised", name)


class Runtime:
    """Runs a core on the current event loop."""

    def __init__(
        self,
        core: Server,
        *,
        upstream_url: str = "http://localhost:11434",
        upstream_client: UpstreamClient = "auto",
        respond: Callable[[Request], Response] = _not_found,
        handle: Callable[[ProgramEvent], None] = _ignore,
        notify: Callable[[Notice], None] = _ignore,
    ) -> None:
        """
        Args:
            core: the server to run.
            upstream_url: the model server's address.
            upstream_client: what asks it: "auto" takes a socket alone for plain HTTP, httpx else;
                "httpx" takes that for all.
            respond: answers requests outside the protocol's path.
            handle: gets what happens in the program's own namespaces; call `core.emit` etc. in it.
            notify: gets the core's notices, for logs.

        What these three raise is logged; a request is then answered with 500.

        Raises:
            ValueError: `upstream_url` is no http or https address.
            RuntimeError: no event loop runs.
        """
        self.core = core
        self._respond = respond
        self._handle = handle
        self._notify = notify
        self._upstreams = Upstreams(core, upstream_url, upstream_client, self.now, self.pump)
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._connections: dict[ConnId, _Connection] = {}
        self._listener: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: Millis | None = None
        self._pumping = False
        self._stopped = asyncio.Event()
        self._draining = False
        self._lost = asyncio.Event()

    def now(self) -> Millis:
        """Return the time of the loop that it runs on."""
        return _millis(self._time() * 1000)

    @property
    def port(self) -> int:
        """The port that the server listens on.

        Raises:
            RuntimeError: it does not listen yet.
        """
        if self._listener is None:
            raise RuntimeError("the server has not been started")
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Args:
            host: the address to bind.
            port: 0 picks a free one.

        Raises:
            OSError: the address cannot be bound.
        """
        listener = await self._loop.create_server(
            lambda: _Connection(self), host, port, backlog=_BACKLOG, start_serving=False
        )
        for listening in listener.sockets:
            if _TCP_NOTSENT_LOWAT is not None:
                with contextlib.suppress(OSError):
                    # Accepted sockets inherit it.
                    listening.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_BYTES)
        await listener.start_serving()
        self._listener = listener
        self.pump()

    async def shut_down(self) -> None:
        """Let running streams finish in the core's time, then close everything.

        Until then the server listens: clients on polling come with new connections for the rest.
        """
        self.core.shut_down(self.now())
        self.pump()
        await self._stopped.wait()
        await self._stop_listening()
        await self._drain()
        await self.aclose()

    async def _drain(self) -> None:
        """Close each connection when all is written, and wait for that, a moment at most."""
        self._draining = True
        for connection in list(self._connections.values()):
            connection.flush()
        self.pump()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_LIMIT):
                while self._connections:
                    self._lost.clear()
                    await self._lost.wait()

    async def aclose(self) -> None:
        """Drop everything that is still open, after one more turn for what is being written."""
        await self._stop_listening()
        await self._upstreams.aclose()
        await asyncio.sleep(0)
        for connection in list(self._connections.values()):
            connection.abort()
        await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()

    async def _stop_listening(self) -> None:
        """Close the listener, but not under a connection that is being accepted (CPython #109564).

        asyncio accepts in one turn of the loop and makes the transport in the next; a listener that
        is closed between the two leaves the socket open for ever.
        """
        listener, self._listener = self._listener, None
        if listener is None:
            return
        for listening in listener.sockets:
            self._loop.remove_reader(listening.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        listener.close()

    def pump(self) -> None:
        """Carry out all that the core wants, and set the timer. Call it after any input."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while (output := self.core.poll()) is not None:
                match output:
                    case WantWrite():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.flush()
                    case PauseReading():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.pause_reading()
                    case ResumeReading():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.resume_reading()
                    case Abort():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.abort()
                    case StartUpstream():
                        self._upstreams.start(output.stream, output.request)
                    case PauseUpstream():
                        self._upstreams.pause(output.stream)
                    case ResumeUpstream():
                        self._upstreams.resume(output.stream)
                    case CancelUpstream():
                        self._upstreams.cancel(output.stream)
                    case ProbeUpstream():
                        self._upstreams.probe(output.request)
                    case HttpRequest():
                        self._answer(output)
                    case Notice():
                        _call("notify", self._notify, output)
                    case Stopped():
                        self._stopped.set()
                    case _:  # a ProgramEvent; mypy names what else there is and has no case
                        _call("handle", self._handle, output)
        finally:
            self._pumping = False
            self._set_timer()

    def _answer(self, output: HttpRequest) -> None:
        try:
            self.core.respond(output.conn, self._respond(output.request), self.now())
        except Exception:  # the answer may be one that cannot be sent, too
            _log.exception("the program's respond raised")
            self.core.respond(output.conn, Response(500), self.now())

    def _set_timer(self) -> None:
        """See that the timer rings at the core's deadline, or before.

        Most deadlines are moved or cleared long before they come. A timer that rings too early is
        set anew: once in its time, and not with each of them.
        """
        deadline = self.core.next_timeout()
        if deadline is None or (self._timer_at is not None and self._timer_at <= deadline.at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline.at
        delay = max(0, deadline.at - self.now()) / 1000
        self._timer = self._loop.call_later(delay, self._timeout)

    def _timeout(self) -> None:
        assert self._timer_at is not None
        # A loop that wakes a moment early must not spin.
        instant = max(self._timer_at, self.now())
        self._timer = self._timer_at = None
        deadline = self.core.next_timeout()
        if deadline is not None and deadline.at <= instant:
            self.core.handle_timeout(instant)
        self.pump()


class _Connection(asyncio.Protocol):
    """One socket."""

    __slots__ = ("_blocked", "_conn", "_core", "_ending", "_now", "_runtime", "_transport")

    _transport: asyncio.Transport
    _conn: ConnId

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._core = runtime.core
        self._now = runtime.now
        self._blocked = False
        self._ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._transport = transport
        transport.set_write_buffer_limits(high=0)  # what the kernel does not take, waits
        # asyncio sets TCP_NODELAY itself.
        address = transport.get_extra_info("peername")
        peer = Peer(*address[:2]) if isinstance(address, tuple) else Peer()
        self._conn = self._core.connected(peer, self._now())
        self._runtime._connections[self._conn] = self
        self._runtime.pump()

    def data_received(self, data: bytes) -> None:
        if not self._ending:
            self._core.receive_data(self._conn, data, self._now())
            self._runtime.pump()

    def eof_received(self) -> bool:
        if not self._ending:
            self._core.receive_eof(self._conn, self._now())
            self._runtime.pump()
        return True  # the core ends the connection

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        self._runtime._connections.pop(self._conn, None)
        self._runtime._lost.set()
        self._core.connection_lost(self._conn, self._now())
        self._runtime.pump()

    def pause_writing(self) -> None:
        self._blocked = True
        self._core.write_blocked(self._conn, self._now())

    def resume_writing(self) -> None:
        self._blocked = False
        self.flush()
        self._runtime.pump()

    def flush(self) -> None:
        """Write while the socket has room."""
        while not (self._blocked or self._ending):
            chunk = self._core.data_to_send(self._conn, _WRITE_BYTES, self._now())
            if chunk.data:
                self._transport.write(chunk.data)
            more = chunk.data and not chunk.last
            if chunk.end or (self._runtime._draining and not more):
                self._ending = True
                # Not in a callback of the transport's own: connection_lost would run twice
                # (CPython #156512).
                asyncio.get_running_loop().call_soon(self._transport.close)
            elif not more:
                return

    def abort(self) -> None:
        self._ending = True
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
