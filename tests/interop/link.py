"""A TCP link between a client and the server that a test can cut: the dropped transport.

Rules of this file: bytes pass unchanged, both ways; a cut resets every connection there is, and
each new one until the link is mended: a polling client may have none just when it is cut. What
clients send by WebSocket can be held up, so that an upgrade takes as long as a test wants.
"""

import asyncio
import math
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from runtimes.loop_thread import LoopThread, stop_listening

_PIECE = 65_536  # bytes


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
        self._changed = asyncio.Condition()
        self._ends: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._listener = self._thread.run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._listener.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset all connections, and those to come until `mend`."""
        self._thread.run(self._cut())

    def mend(self) -> None:
        self._whole = True

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
        tasks = list(self._ends)
        for ends in self._ends.values():
            for writer in ends:
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
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._ends[task] = [writer]
        task.add_done_callback(self._ends.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            with suppress(ConnectionError):
                back, forth = await asyncio.open_connection(*self._target)
                ends.append(forth)
                task = asyncio.current_task()
                assert task is not None
                self._ends[task].append(forth)
                await asyncio.gather(self._pass_forth(reader, forth), _pass_back(back, writer))
        finally:
            for end in ends:
                end.close()

    async def _pass_forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what the client sends."""
        passed, websocket = 0, False
        with suppress(ConnectionError):
            while data := await reader.read(_PIECE):
                websocket = websocket or b"upgrade: websocket" in data.lower()
                if websocket:
                    await self._may_pass(passed)
                passed += 1
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _may_pass(self, passed: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: passed < self._pieces)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with suppress(OSError):  # it is closed already
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _pass_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@contextmanager
def running_link(host: str, port: int) -> Iterator[Link]:
    link = Link(host, port)
    try:
        yield link
    finally:
        link.close()
