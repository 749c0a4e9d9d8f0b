"""A Socket.IO client on anyio: `connect()`, events as an async iterator.

Rules of this file: the core's `Client` decides everything; here are its sockets, its timer and the
program's door. What the program has not taken yet waits here; above `_WAITING_EVENTS` the sockets
are not read, so that a slow program slows the server. All tasks end with the `connect` block, and
not before: who is cancelled has still to leave. What the program raises in the block comes out as
it is, in no group.
"""

import contextlib
import secrets
import socket
import ssl
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import assert_never

import anyio
import anyio.abc
from tokenwire.client import (
    Abort,
    Acknowledged,
    AckTimedOut,
    Client,
    ClientConfig,
    ConnectError,
    ConnectFailed,
    Dial,
    Event,
    Joined,
    Left,
    NamespaceEvent,
    Reconnecting,
    Refused,
    WantWrite,
)
from tokenwire.client.config import Transport
from tokenwire.client.url import Address, parse
from tokenwire.types import ConnId

from tokenwire_anyio.server import now

_READ_BYTES = 64 * 1024
Task = Callable[[], Coroutine[None, None, None]]

_WRITE_BYTES = 64 * 1024
_WAITING_EVENTS = 1_000
_DRAIN_LIMIT = 1.0  # seconds for what is written already


class SystemIds:
    """The operating system's randomness."""

    def random_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


@asynccontextmanager
async def connect(
    url: str,
    *,
    auth: dict[str, object] | None = None,
    transports: tuple[Transport, ...] = ("polling", "websocket"),
    headers: Mapping[str, str] | None = None,
    path: str = "/socket.io/",
    reconnect: bool = True,
    reconnect_attempts: int | None = None,
    reconnect_delay: float = 1,
    reconnect_delay_max: float = 5,
) -> AsyncIterator["ClientSocket"]:
    """Connect to a namespace; leave it at the end of the block.

    Args:
        url: `http://host:port/namespace`, as the stock client's `io(url)`; ws, wss and https too.
        auth: the payload of the CONNECT packet.
        transports: the first is begun with; polling goes over to WebSocket if both are named.
        headers: sent with each request.
        path: where the server's Engine.IO is.
        reconnect: connect again by itself after a lost transport. The first attempt is the only
            one: its failure is raised.
        reconnect_attempts: how often; None: for ever.
        reconnect_delay: seconds before the first attempt, about; twice as many before each more.
        reconnect_delay_max: seconds before an attempt at most.

    Raises:
        ConnectError: the namespace could not be joined.
        ValueError: the URL is not one.
        LocalProtocolError: an argument that makes no sense.
    """
    address = parse(url)
    config = ClientConfig(
        host=address.authority,
        path=path,
        query=address.query,
        headers=tuple((headers or {}).items()),
        transports=transports,
        reconnect=reconnect,
        reconnect_attempts=reconnect_attempts,
        reconnect_delay=int(reconnect_delay * 1000),
        reconnect_delay_max=int(reconnect_delay_max * 1000),
    )
    error: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            client = ClientSocket(Client(config, ids=SystemIds()), address, tasks)
            tasks.start_soon(_uninterrupted(client._keep_time))
            try:
                await client._join(auth)
                yield client
            except BaseException as raised:  # the group would wrap it
                error = raised
            with anyio.CancelScope(shield=True):
                await client._close()
    except BaseExceptionGroup as group:  # trio interrupts whatever task is running
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        error = KeyboardInterrupt()
    if error is not None:
        raise error


def _uninterrupted(task: Task) -> Task:
    """Let trio raise KeyboardInterrupt in the program, not in a connection that says goodbye."""
    trio = sys.modules.get("trio")
    if trio is None:
        return task
    protected: Task = trio.lowlevel.enable_ki_protection(task)
    return protected


class ClientSocket:
    """A client in one namespace. Iterate over it for what happens."""

    def __init__(self, core: Client, address: Address, tasks: anyio.abc.TaskGroup) -> None:
        self.namespace = address.namespace
        self.sid: str | None = None
        """The socket's id; None while not connected."""
        self.recovered = False
        """True after a reconnection for which the server had kept everything."""
        self._core = core
        self._address = address
        self._context = ssl.create_default_context() if address.secure else None
        self._tasks = tasks
        self._connections: dict[ConnId, _Connection] = {}
        self._events: deque[NamespaceEvent] = deque()
        self._acks: dict[int, _Ack] = {}
        self._moved = anyio.Event()
        """Set when the core has had its say again."""
        self._timing = anyio.CancelScope(shield=True)
        self._pumping = False

    # -- the program -------------------------------------------------------------------------------

    @property
    def transport(self) -> str | None:
        """The transport in use: "polling", "websocket", or None."""
        return self._core.transport

    def emit(self, name: str | int, *args: object) -> None:
        """Send an event; it waits while there is no connection.

        Raises:
            LocalProtocolError: it cannot be sent, or too much waits.
        """
        self._core.emit(self.namespace, name, list(args), now())
        self._pump()

    async def call(self, name: str | int, *args: object, timeout: float = 10) -> tuple[object, ...]:
        """Send an event and wait for its acknowledgement.

        Args:
            name: the event's name.
            args: its arguments.
            timeout: seconds.

        Returns:
            The acknowledgement's arguments.

        Raises:
            TimeoutError: none came in time, or the connection was lost.
            LocalProtocolError: it cannot be sent, or too much waits.
        """
        ack_id = self._core.emit(
            self.namespace,
            name,
            list(args),
            now(),
            want_ack=True,
            ack_timeout=int(timeout * 1000),
        )
        assert ack_id is not None
        ack = self._acks[ack_id] = _Ack()
        self._pump()
        await ack.settled.wait()
        if ack.args is None:
            raise TimeoutError("no acknowledgement")
        return ack.args

    def acknowledge(self, event: Event, *args: object) -> None:
        """Answer an event that wants an acknowledgement."""
        if event.ack_id is not None:
            self._core.acknowledge(event.namespace, event.ack_id, list(args), now())
            self._pump()

    def __aiter__(self) -> "ClientSocket":
        return self

    async def __anext__(self) -> NamespaceEvent:
        while not self._events:
            if self._core.over:
                raise StopAsyncIteration
            await self._moved.wait()
        event = self._events.popleft()
        if len(self._events) == _WAITING_EVENTS // 2:
            for connection in self._connections.values():
                connection.reading.set()
        return event

    async def _join(self, auth: dict[str, object] | None) -> None:
        self._core.join(self.namespace, now(), auth)
        self._pump()
        async for event in self:
            match event:
                case Joined():
                    return
                case Refused() | ConnectFailed() | Left():
                    raise ConnectError(event)
                case _:
                    pass
        raise AssertionError("an attempt ends in one of these")

    async def _close(self) -> None:
        """Say the last words, which the core bounds in time, and close the sockets."""
        self._core.close(now())
        self._pump()
        for connection in self._connections.values():
            connection.reading.set()  # the server's answers to them are wanted
        while not self._core.over:
            await self._moved.wait()
        with anyio.move_on_after(_DRAIN_LIMIT):
            while self._connections:
                await self._moved.wait()
        for connection in self._connections.values():
            connection.scope.cancel()
        self._timing.cancel()

    # -- the core ----------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while (output := self._core.poll()) is not None:
                match output:
                    case Dial():
                        connection = _Connection(self, output.conn)
                        self._connections[output.conn] = connection
                        self._tasks.start_soon(_uninterrupted(connection.run))
                    case WantWrite():
                        if (known := self._connections.get(output.conn)) is not None:
                            known.wake.set()
                    case Abort():
                        if (known := self._connections.get(output.conn)) is not None:
                            known.scope.cancel()
                    case Acknowledged():
                        self._settle(output.ack_id, output.args)
                    case AckTimedOut():
                        self._settle(output.ack_id, None)
                    case Event() | Joined() | Left() | Reconnecting() | ConnectFailed() | Refused():
                        self._tell(output)
                    case _:
                        assert_never(output)
        finally:
            self._pumping = False
        moved, self._moved = self._moved, anyio.Event()
        moved.set()

    def _tell(self, event: NamespaceEvent) -> None:
        match event:
            case Joined():
                self.sid, self.recovered = event.sid, event.recovered
            case Left():
                self.sid = None
            case _:
                pass
        self._events.append(event)
        if len(self._events) > _WAITING_EVENTS:
            for connection in self._connections.values():
                connection.pause()

    def _settle(self, ack_id: int, args: tuple[object, ...] | None) -> None:
        ack = self._acks.pop(ack_id)
        ack.args = args
        ack.settled.set()

    async def _keep_time(self) -> None:
        with self._timing:
            while True:
                deadline = self._core.next_timeout()
                delay = None if deadline is None else max(0, deadline.at - now()) / 1000
                with anyio.move_on_after(delay):
                    await self._moved.wait()
                    continue
                assert deadline is not None
                # A loop that wakes a moment early must not spin.
                self._core.handle_timeout(max(deadline.at, now()))
                self._pump()


class _Ack:
    """An acknowledgement that is waited for."""

    def __init__(self) -> None:
        self.settled = anyio.Event()
        self.args: tuple[object, ...] | None = None


class _Connection:
    """One socket, from its dial to its end."""

    def __init__(self, client: ClientSocket, conn: ConnId) -> None:
        self.scope = anyio.CancelScope(shield=True)
        self.wake = anyio.Event()
        self.reading = anyio.Event()
        self.reading.set()
        self._client = client
        self._core = client._core
        self._conn = conn

    def pause(self) -> None:
        if self.reading.is_set():
            self.reading = anyio.Event()

    async def run(self) -> None:
        try:
            with self.scope, contextlib.suppress(OSError):
                await self._dial_and_serve()
        finally:
            del self._client._connections[self._conn]
            self._core.connection_lost(self._conn, now())
            self._client._pump()

    async def _dial_and_serve(self) -> None:
        """
        Raises:
            OSError: the server cannot be reached, or the connection is broken.
        """
        address = self._client._address
        with await _dial(address.host, address.port) as plain:
            connected = plain
            if (context := self._client._context) is not None:
                connected = await _begin_tls(plain, context, address.host)
            with connected:
                self._core.connected(self._conn, now())
                self._client._pump()
                await self._serve(connected)

    async def _serve(self, connected: socket.socket) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, connected)
            # Inside the group: out of it, an error would come as a group of errors.
            with contextlib.suppress(OSError):
                await self._write(connected)
            tasks.cancel_scope.cancel()

    async def _read(self, connected: socket.socket) -> None:
        while True:
            await self.reading.wait()
            try:
                data = connected.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                await anyio.wait_readable(connected)
                continue
            except OSError:
                self.scope.cancel()
                return
            if not data:
                self._core.receive_eof(self._conn, now())
                self._client._pump()
                return
            self._core.receive_data(self._conn, data, now())
            self._client._pump()
            await anyio.lowlevel.checkpoint()  # a fast server must not hold the loop

    async def _write(self, connected: socket.socket) -> None:
        """Pull and send until the end.

        Raises:
            OSError: the connection is broken.
        """
        while True:
            await self.wake.wait()
            self.wake = anyio.Event()
            while True:
                chunk = self._core.data_to_send(self._conn, _WRITE_BYTES, now())
                self._client._pump()
                if chunk.data:
                    await _send(connected, chunk.data)
                if chunk.end:
                    return
                if not chunk.data:
                    break


async def _dial(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to the first address of the host that takes it.

    Raises:
        OSError: none does.
    """
    error = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await anyio.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        dialled = socket.socket(family, kind, protocol)
        try:
            dialled.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                dialled.connect(address)
            await anyio.wait_writable(dialled)
            code = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, f"cannot connect to {address}")
            dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as refused:
            dialled.close()
            error = refused
        except BaseException:  # cancelled
            dialled.close()
            raise
        else:
            return dialled
    raise error


async def _begin_tls(plain: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """
    Raises:
        OSError: the server is not the one, or speaks no TLS.
    """
    secure = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                await anyio.wait_readable(secure)
            except ssl.SSLWantWriteError:
                await anyio.wait_writable(secure)
            else:
                return secure
    except BaseException:
        secure.close()
        raise


async def _send(connected: socket.socket, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[connected.send(left) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            await anyio.wait_writable(connected)
