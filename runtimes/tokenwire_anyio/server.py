"""The anyio runtime: sockets and a clock around the core, on asyncio or trio.

Rules of this file: no protocol is known here. An input is followed by `_pump`, which carries out
all outputs. A connection has two tasks: one reads, one pulls and sends. All tasks end with `run`.
"""

import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from typing import TypeVar, assert_never

import anyio
import anyio.abc
from tokenwire import Server
from tokenwire.outputs import (
    Abort,
    Acknowledged,
    CancelUpstream,
    Connected,
    Disconnected,
    Event,
    HttpRequest,
    Notice,
    PauseReading,
    PauseUpstream,
    ProbeUpstream,
    ResumeReading,
    ResumeUpstream,
    StartUpstream,
    Stopped,
    WantWrite,
)
from tokenwire.types import ConnId, Millis, Peer, Request, Response

from tokenwire_anyio.upstream import Upstreams

_READ_BYTES = 64 * 1024
_WRITE_BYTES = 64 * 1024
_NOTSENT_BYTES = 16 * 1024  # the kernel's share of what waits; without it, megabytes
_BACKLOG = 1024
_ACCEPT_PAUSE = 0.1  # seconds after a failed accept
_DRAIN_LIMIT = 1.0  # seconds that readers have, after all is said, for what is on its way
# Python 3.12 names it; None: this system has none.
_TCP_NOTSENT_LOWAT: int | None = getattr(
    socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None
)

ProgramEvent = Connected | Event | Disconnected | Acknowledged
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


class Runtime:
    """Runs a core as one task of the caller's."""

    def __init__(
        self,
        core: Server,
        *,
        upstream_url: str = "http://localhost:11434",
        respond: Callable[[Request], Response] = _not_found,
        handle: Callable[[ProgramEvent], None] = _ignore,
        notify: Callable[[Notice], None] = _ignore,
    ) -> None:
        """
        Args:
            core: the server to run.
            upstream_url: the model server's address.
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
        self._upstreams = Upstreams(core, upstream_url, now, self.pump)
        self._connections: dict[ConnId, _Connection] = {}
        self._sending: dict[ConnId, None] = {}
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
        for one in listener.listeners:
            raw = one.extra(anyio.abc.SocketAttribute.raw_socket)
            if _TCP_NOTSENT_LOWAT is not None:
                with contextlib.suppress(OSError):
                    # Accepted sockets inherit it.
                    raw.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_BYTES)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._keep_time)
            async with anyio.create_task_group() as accepting:
                for one in listener.listeners:
                    accepting.start_soon(self._accept, one, tasks)
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

    async def _accept(
        self, listener: anyio.abc.Listener[anyio.abc.SocketStream], tasks: anyio.abc.TaskGroup
    ) -> None:
        """Accept for ever: anyio's own loop ends when there is no file descriptor left."""
        assert isinstance(listener, anyio.abc.SocketListener)
        while True:
            try:
                stream = await listener.accept()
            except (OSError, anyio.BrokenResourceError):
                await anyio.sleep(_ACCEPT_PAUSE)
            except anyio.ClosedResourceError:
                return
            else:
                tasks.start_soon(self._serve, stream)

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        address = stream.extra(anyio.abc.SocketAttribute.remote_address, None)
        peer = Peer(*address[:2]) if isinstance(address, tuple) else Peer()
        connection = _Connection(self, stream, self.core.connected(peer, now()))
        self._connections[connection.conn] = connection
        try:
            self.pump()
            await connection.run()
        finally:
            del self._connections[connection.conn]
            self._lost.set()
            self._sending.pop(connection.conn, None)
            self.core.connection_lost(connection.conn, now())
            self.pump()
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

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
            self._tell_blocked()
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
                    case Connected() | Event() | Disconnected() | Acknowledged():
                        _call("handle", self._handle, output)
                    case Notice():
                        _call("notify", self._notify, output)
                    case Stopped():
                        self._stopped.set()
                    case _:
                        assert_never(output)
        finally:
            self._pumping = False
            self._timer_moved.set()

    def _answer(self, output: HttpRequest) -> None:
        try:
            self.core.respond(output.conn, self._respond(output.request), now())
        except Exception:  # the answer may be one that cannot be sent, too
            _log.exception("the program's respond raised")
            self.core.respond(output.conn, Response(500), now())

    def _tell_blocked(self) -> None:
        """Other work came by while these were sending: their sockets are full."""
        sending, self._sending = self._sending, {}
        for conn in sending:
            self.core.write_blocked(conn, now())


class _Connection:
    """One socket."""

    def __init__(self, runtime: Runtime, stream: anyio.abc.SocketStream, conn: ConnId) -> None:
        self.conn = conn
        self.scope = anyio.CancelScope()
        self.wake = anyio.Event()
        self.reading = anyio.Event()
        self.reading.set()
        self._runtime = runtime
        self._core = runtime.core
        self._stream = stream

    async def run(self) -> None:
        with self.scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                # Inside the group: out of it, an error would come as a group of errors.
                with contextlib.suppress(anyio.BrokenResourceError):
                    await self._write()
                tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        try:
            while True:
                await self.reading.wait()
                data = await self._stream.receive(_READ_BYTES)
                self._core.receive_data(self.conn, data, now())
                self._runtime.pump()
        except anyio.EndOfStream:
            self._core.receive_eof(self.conn, now())
            self._runtime.pump()
        except anyio.BrokenResourceError:
            self.scope.cancel()

    async def _write(self) -> None:
        """Pull and send until the end."""
        while True:
            await self.wake.wait()
            self.wake = anyio.Event()
            while True:
                chunk = self._core.data_to_send(self.conn, _WRITE_BYTES, now())
                self._runtime.pump()
                if chunk.data:
                    self._runtime._sending[self.conn] = None
                    await self._stream.send(chunk.data)
                    self._runtime._sending.pop(self.conn, None)
                if chunk.end:
                    return
                if not chunk.data:
                    if self._runtime._draining:
                        return
                    break
