"""A Socket.IO client on asyncio: `connect()`, events as an async iterator.

Rules of this file: the core's `Client` decides everything; here are its sockets, its timer and the
program's door. What the program has not taken yet waits here; above `_WAITING_EVENTS` the sockets
are not read, so that a slow program slows the server.
"""

import asyncio
import secrets
import ssl
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import assert_never, cast

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
from tokenwire.client.url import parse
from tokenwire.types import ConnId, Millis

from tokenwire_asyncio.server import now

_WRITE_BYTES = 64 * 1024
_WAITING_EVENTS = 1_000
_LEAVE_LIMIT = 2.0  # seconds that last words may take


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
    socket = ClientSocket(
        Client(config, ids=SystemIds()),
        address.namespace,
        (address.host, address.port),
        ssl.create_default_context() if address.secure else None,
    )
    try:
        await socket._join(auth)
        yield socket
    finally:
        await _finish(socket._close())


async def _finish(work: Coroutine[None, None, None]) -> None:
    """Do what must be done, a moment at most, also for who is cancelled: then raise that behind it.

    One cancellation may come again and again (anyio's does), so one more wait is not enough.
    """
    task = asyncio.ensure_future(asyncio.wait_for(work, _LEAVE_LIMIT))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    with suppress(TimeoutError):
        task.result()
    if cancelled is not None:
        raise cancelled


class ClientSocket:
    """A client in one namespace. Iterate over it for what happens."""

    def __init__(
        self,
        core: Client,
        namespace: str,
        address: tuple[str, int],
        context: ssl.SSLContext | None,
    ) -> None:
        self.namespace = namespace
        self.sid: str | None = None
        """The socket's id; None while not connected."""
        self.recovered = False
        """True after a reconnection for which the server had kept everything."""
        self._core = core
        self._address = address
        self._context = context
        self._connections: dict[ConnId, _Connection] = {}
        self._dials: dict[ConnId, asyncio.Task[None]] = {}
        self._events: deque[NamespaceEvent] = deque()
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()
        """Set when the core has had its say again."""
        self._acks: dict[int, asyncio.Future[tuple[object, ...]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._over = False

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
        future: asyncio.Future[tuple[object, ...]] = asyncio.get_running_loop().create_future()
        self._acks[ack_id] = future
        self._pump()
        return await future

    def acknowledge(self, event: Event, *args: object) -> None:
        """Answer an event that wants an acknowledgement."""
        if event.ack_id is not None:
            self._core.acknowledge(event.namespace, event.ack_id, list(args), now())
            self._pump()

    def __aiter__(self) -> "ClientSocket":
        return self

    async def __anext__(self) -> NamespaceEvent:
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        if len(self._events) == _WAITING_EVENTS // 2:
            for connection in self._connections.values():
                connection.resume_reading()
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
        for connection in list(self._connections.values()):
            connection.resume_reading()  # the server's answers to them are wanted
        try:
            while not self._core.over:
                self._settled.clear()
                await self._settled.wait()
            for connection in list(self._connections.values()):
                await connection.finish()
        finally:  # cancelled: no more words
            self._over = True
            self._arrived.set()
            for connection in list(self._connections.values()):
                connection.abort()
            for task in self._dials.values():
                task.cancel()
            if self._timer is not None:
                self._timer.cancel()

    # -- the core ----------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while (output := self._core.poll()) is not None:
                match output:
                    case Dial():
                        self._dials[output.conn] = asyncio.ensure_future(self._dial(output.conn))
                    case WantWrite():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.flush()
                    case Abort():
                        if (connection := self._connections.get(output.conn)) is not None:
                            connection.abort()
                        elif (task := self._dials.pop(output.conn, None)) is not None:
                            task.cancel()
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
        if self._core.over:
            self._over = True
            self._arrived.set()
        self._settled.set()
        self._set_timer()

    def _tell(self, event: NamespaceEvent) -> None:
        match event:
            case Joined():
                self.sid, self.recovered = event.sid, event.recovered
            case Left():
                self.sid = None
            case _:
                pass
        self._events.append(event)
        self._arrived.set()
        if len(self._events) > _WAITING_EVENTS:
            for connection in self._connections.values():
                connection.pause_reading()

    def _settle(self, ack_id: int, args: tuple[object, ...] | None) -> None:
        future = self._acks.pop(ack_id, None)
        if future is None or future.done():
            return
        if args is None:
            future.set_exception(TimeoutError("no acknowledgement"))
        else:
            future.set_result(args)

    async def _dial(self, conn: ConnId) -> None:
        host, port = self._address
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self, conn), host, port, ssl=self._context
            )
        except OSError:
            self._core.connection_lost(conn, now())
        self._dials.pop(conn, None)
        self._pump()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.next_timeout()
        if deadline is not None and not self._over:
            delay = max(0, deadline.at - now()) / 1000
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay, self._timeout, deadline.at)

    def _timeout(self, at: Millis) -> None:
        self._core.handle_timeout(max(now(), at))
        self._pump()


class _Connection(asyncio.Protocol):
    """One socket."""

    _transport: asyncio.Transport

    def __init__(self, socket: ClientSocket, conn: ConnId) -> None:
        self._socket = socket
        self._core = socket._core
        self._conn = conn
        self._blocked = False
        self._ending = False
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._transport = transport
        self._socket._connections[self._conn] = self
        self._core.connected(self._conn, now())
        self._socket._pump()

    def data_received(self, data: bytes) -> None:
        self._core.receive_data(self._conn, data, now())
        self._socket._pump()

    def eof_received(self) -> bool:
        self._core.receive_eof(self._conn, now())
        self._socket._pump()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        self._lost.set()
        self._socket._connections.pop(self._conn, None)
        self._core.connection_lost(self._conn, now())
        self._socket._pump()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self.flush()

    def flush(self) -> None:
        while not (self._blocked or self._ending or self._transport.is_closing()):
            chunk = self._core.data_to_send(self._conn, _WRITE_BYTES, now())
            if chunk.data:
                self._transport.write(chunk.data)
            if chunk.end:
                self._ending = True
                asyncio.get_running_loop().call_soon(self._transport.close)
            elif not chunk.data:
                return

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def abort(self) -> None:
        self._ending = True
        self._transport.abort()

    async def finish(self) -> None:
        """Wait until the socket is closed, a moment at most; then drop it."""
        try:
            await asyncio.wait_for(self._lost.wait(), 1)
        except TimeoutError:
            self.abort()
