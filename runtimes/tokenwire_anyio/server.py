"""The anyio runtime: sockets and a clock around the core, on asyncio or trio.

Rules of this file: no protocol is known here. An input is followed by `pump`, which carries out
all outputs. A connection has two tasks: one reads, one pulls and sends. All tasks end with `run`.
Sockets are read and written as they are, and waited for with anyio: its streams wait in every
`send`, so that a full socket looks like any other.
"""

import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.abc
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

from tokenwire_anyio.upstream import UpstreamClient, Upstreams

_READ_BYTES = 64 * 1024
_WRITE_BYTES = 16 * 1024  # one pull; the next one shows that a slow reader has taken it
_NOTSENT_BYTES = 16 * 1024  # the kernel's share of what waits; without it, megabytes
_BACKLOG = 1024
_ACCEPT_PAUSE = 0.1  # seconds after a failed accept
_DRAIN_LIMIT = 1.0  # seconds that readers have, after all is said, for what is on its way
# Python 3.12 names it; None: this system has none.
_TCP_NOTSENT_LOWAT: int | None = getattr(
    socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None
)

T = TypeVar("T")
_log = logging.getLogger("tokenwire")


def now() -> Millis:
    """Return the event loop's time."""
    return Millis(int(anyio.current_time() * 1000))


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


def _set_options(listener: socket.socket) -> None:
    """Set what accepted sockets inherit, where the system knows it."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _TCP_NOTSENT_LOWAT is not None:
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_BYTES)


class Runtime:
    """Runs a core as one task of the caller's."""

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
        """
        self.core = core
        self.port: int | None = None
        """The port that the server listens on; None before it does."""
        self._respond = respond
        self._handle = handle
        self._notify = notify
        self._upstreams = Upstreams(core, upstream_url, upstream_client, now, self.pump)
        self._connections: dict[ConnId, _Connection] = {}
        self._timer_moved = anyio.Event()
        self._stopped = anyio.Event()
        self._draining = False
        self._lost = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._pumping = False

    async def run(
        self,
        host: str,
        port: int,
        *,
        task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen and serve until `shut_down` is complete, or until cancelled.

        Args:
            host: the address to bind.
            port: 0 picks a free one.
            task_status: with `TaskGroup.start`, gets the port once the server listens.

        Raises:
            OSError: the address cannot be bound.
        """
        listener = await anyio.create_tcp_listener(
            local_host=host, local_port=port, backlog=_BACKLOG
        )
        raws = [one.extra(anyio.abc.SocketAttribute.raw_socket) for one in listener.listeners]
        for raw in raws:
            _set_options(raw)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._keep_time)
            async with anyio.create_task_group() as accepting:
                for raw in raws:
                    accepting.start_soon(self._accept, raw, tasks)
                task_status.started(self.port)
                await self._stopped.wait()
                accepting.cancel_scope.cancel()
            await self._drain()
            tasks.cancel_scope.cancel()

    def shut_down(self) -> None:
        """Let running streams finish in the core's time; then `run` returns."""
        self.core.shut_down(now())
        self.pump()

    async def _drain(self) -> None:
        """Close each connection when all is written, and wait for that, a moment at most."""
        self._draining = True
        for connection in self._connections.values():
            connection.wake.set()
        with anyio.move_on_after(_DRAIN_LIMIT):
            while self._connections:
                self._lost = anyio.Event()
                await self._lost.wait()

    async def _accept(self, listener: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        """Accept for ever, also when there is no file descriptor left for a while."""
        while True:
            await anyio.wait_readable(listener)
            try:
                accepted, address = listener.accept()
            except BlockingIOError:  # the peer has gone again
                continue
            except OSError:
                await anyio.sleep(_ACCEPT_PAUSE)
                continue
            accepted.setblocking(False)
            tasks.start_soon(self._serve, accepted, Peer(*address[:2]))

    async def _serve(self, accepted: socket.socket, peer: Peer) -> None:
        connection = _Connection(self, accepted, self.core.connected(peer, now()))
        self._connections[connection.conn] = connection
        try:
            self.pump()
            await connection.run()
        finally:
            del self._connections[connection.conn]
            self._lost.set()
            self.core.connection_lost(connection.conn, now())
            self.pump()
            accepted.close()

    async def _keep_time(self) -> None:
        while True:
            deadline = self.core.next_timeout()
            delay = None if deadline is None else max(0, deadline.at - now()) / 1000
            with anyio.move_on_after(delay):
                await self._timer_moved.wait()
                self._timer_moved = anyio.Event()
                continue
            assert deadline is not None
            # A loop that wakes a moment early must not spin.
            self.core.handle_timeout(max(deadline.at, now()))
            self.pump()

    def pump(self) -> None:
        """Carry out all that the core wants. Call it after any input."""
        if self._pumping or self._tasks is None:
            return
        self._pumping = True
        try:
            while (output := self.core.poll()) is not None:
                match output:
                    case WantWrite():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.wake.set()
                    case PauseReading():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.reading = anyio.Event()
                    case ResumeReading():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.reading.set()
                    case Abort():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.scope.cancel()
                    case StartUpstream():
                        self._upstreams.start(self._tasks, output.stream, output.request)
                    case PauseUpstream():
                        self._upstreams.pause(output.stream)
                    case ResumeUpstream():
                        self._upstreams.resume(output.stream)
                    case CancelUpstream():
                        self._upstreams.cancel(output.stream)
                    case ProbeUpstream():
                        self._tasks.start_soon(self._upstreams.probe, output.request)
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
            self._timer_moved.set()

    def _answer(self, output: HttpRequest) -> None:
        try:
            self.core.respond(output.conn, self._respond(output.request), now())
        except Exception:  # the answer may be one that cannot be sent, too
            _log.exception("the program's respond raised")
            self.core.respond(output.conn, Response(500), now())


class _Connection:
    """One socket."""

    def __init__(self, runtime: Runtime, accepted: socket.socket, conn: ConnId) -> None:
        self.conn = conn
        self.scope = anyio.CancelScope()
        self.wake = anyio.Event()
        self.reading = anyio.Event()
        self.reading.set()
        self._runtime = runtime
        self._core = runtime.core
        self._socket = accepted

    async def run(self) -> None:
        with self.scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                # Inside the group: out of it, an error would come as a group of errors.
                with contextlib.suppress(OSError):
                    await self._write()
                tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        while True:
            await self.reading.wait()
            await anyio.wait_readable(self._socket)
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                self.scope.cancel()
                return
            if not data:
                self._core.receive_eof(self.conn, now())
                self._runtime.pump()
                return
            self._core.receive_data(self.conn, data, now())
            self._runtime.pump()

    async def _write(self) -> None:
        """Pull and send until the end.

        Raises:
            OSError: the connection is broken.
        """
        while True:
            await self.wake.wait()
            self.wake = anyio.Event()
            while True:
                chunk = self._core.data_to_send(self.conn, _WRITE_BYTES, now())
                self._runtime.pump()
                more = chunk.data and not chunk.last
                if chunk.data and await self._send(chunk.data):
                    more = True  # to ask is to say that the socket has room again
                if chunk.end:
                    return
                if not more:
                    if self._runtime._draining:
                        return
                    break

    async def _send(self, data: bytes) -> bool:
        """Send all of it. Return True if the socket was full meanwhile."""
        was_full = False
        left = memoryview(data)
        while True:
            with contextlib.suppress(BlockingIOError):
                left = left[self._socket.send(left) :]
            if not left:
                return was_full
            was_full = True
            self._core.write_blocked(self.conn, now())
            self._runtime.pump()
            await anyio.wait_writable(self._socket)
