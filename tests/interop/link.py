"""A TCP link between a client and the server that a test can cut: the dropped transport.

Rules of this file: bytes pass unchanged, both ways; a cut resets every connection there is, and
each new one until the link is mended: a polling client may have none just when it is cut. What
clients send by WebSocket can be held up, so that an upgrade takes as long as a test wants. A fault
strikes all connections there are after an exact number of the server's bytes; later ones pass.
"""

import asyncio
import math
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from runtimes.loop_thread import LoopThread, stop_listening

Fault = Literal["cut", "reset", "stall"]
"""cut: both ends get a FIN. reset: both get an RST. stall: nothing passes any more, no end either,
so that each side has to find out by itself."""

_PIECE = 65_536  # bytes
_BUFFER = 65_536  # of a socket in the kernel, which would take megabytes for a client that is slow


class _Connection:
    """The ends of one connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.ends = [client]
        self.stalled = False

    async def may_pass(self) -> None:
        """Return, unless the connection is stalled."""
        if self.stalled:
            await asyncio.Event().wait()


class Link:
    """Listens on a port of its own and passes everything on."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._thread = LoopThread("link")
        self._whole = True
        self.refused = threading.Event()
        """Set when somebody came while the link was cut."""
        self._pieces = math.inf
        """How many pieces of what a client sends by a WebSocket are let through."""
        self._fault: Fault = "cut"
        self._left = math.inf
        """How many of the server's bytes still pass before the fault."""
        self._struck = threading.Event()
        self._changed = asyncio.Condition()
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._listener = self._thread.run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset all connections, and those to come until `mend`."""
        self._thread.run(self._cut())

    def mend(self) -> None:
        self._whole = True

    def fail(self, fault: Fault, *, after: int) -> threading.Event:
        """Let a fault strike once.

        Args:
            fault: what happens to the connections that there are then.
            after: how many bytes from the server still pass, on all connections together.

        Returns:
            What is set when it has struck.
        """
        return self._thread.call(lambda: self._arm(fault, after))

    def _arm(self, fault: Fault, after: int) -> threading.Event:
        self._fault, self._left, self._struck = fault, after, threading.Event()
        return self._struck

    def hold_websockets(self, *, after: float) -> None:
        """Let only so many pieces through of what a client sends by a WebSocket.

        Its handshake is one piece; each message behind which it waits for an answer is another.
        """
        self._thread.run(self._let_through(after))

    def pass_websockets(self) -> None:
        """Hold nothing up."""
        self._thread.run(self._let_through(math.inf))

    async def _let_through(self, pieces: float) -> None:
        async with self._changed:
            self._pieces = pieces
            self._changed.notify_all()

    async def _cut(self) -> None:
        self._whole = False
        tasks = list(self._connections)
        for connection in self._connections.values():
            for writer in connection.ends:
                _reset(writer)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        self._thread.run(stop_listening(self._listener))
        self.cut()
        self._thread.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            _reset(writer)
            self.refused.set()
            return
        connection = _Connection(writer)
        task = asyncio.ensure_future(self._serve(reader, connection))
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        (writer,) = connection.ends
        try:
            with suppress(OSError):  # whichever end has gone meanwhile
                back, forth = await asyncio.open_connection(*self._target)
                connection.ends.append(forth)
                _socket_of(writer).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                _socket_of(forth).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
                await asyncio.gather(
                    self._pass_forth(reader, connection), self._pass_back(back, connection)
                )
        finally:
            for end in connection.ends:
                end.close()

    async def _pass_forth(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        """Pass on what the client sends."""
        passed, websocket = 0, False
        _, writer = connection.ends
        with suppress(OSError):  # a connection that is lost, or no longer one
            while data := await reader.read(_PIECE):
                websocket = websocket or b"upgrade: websocket" in data.lower()
                if websocket:
                    await self._piece_may_pass(passed)
                passed += 1
                await connection.may_pass()
                writer.write(data)
                await writer.drain()
            await connection.may_pass()
            writer.write_eof()

    async def _piece_may_pass(self, passed: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: passed < self._pieces)

    async def _pass_back(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        """Pass on what the server sends."""
        writer, _ = connection.ends
        with suppress(OSError):  # a connection that is lost, or no longer one
            while data := await reader.read(_PIECE):
                await connection.may_pass()
                before, self._left = self._left, self._left - len(data)
                strikes = self._left <= 0 < before + 1
                writer.write(data[: int(before)] if strikes else data)
                if strikes:
                    self._strike()
                await writer.drain()
            await connection.may_pass()
            writer.write_eof()

    def _strike(self) -> None:
        self._left = math.inf
        for connection in self._connections.values():
            match self._fault:
                case "cut":
                    for end in connection.ends:
                        end.close()
                case "reset":
                    for end in connection.ends:
                        _reset(end)
                case "stall":
                    connection.stalled = True
        self._struck.set()


def _socket_of(writer: asyncio.StreamWriter) -> socket.socket:
    raw: socket.socket = writer.get_extra_info("socket")
    return raw


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # it is closed already
        _socket_of(writer).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def running_link(host: str, port: int) -> Iterator[Link]:
    link = Link(host, port)
    try:
        yield link
    finally:
        link.close()
