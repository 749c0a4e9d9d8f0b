"""One request to the model server over a socket of its own: plain HTTP/1.1.

Rules of this file: as in `tokenwire_asyncio/via_socket.py`: the core reads the answer, a piece at a
time; there is no read timeout here. What the network does to a request is told to the core; all
else is raised.
"""

import socket
from collections.abc import Callable

import anyio
import anyio.abc
from anyio.abc import SocketAttribute
from tokenwire.http.exchange import Exchange
from tokenwire.types import Millis

from tokenwire_anyio.call import Call, Limits


class SocketCall(Call):
    """A request that is under way."""

    def __init__(
        self,
        exchange: Exchange,
        host: str,
        port: int,
        limits: Limits,
        now: Callable[[], Millis],
        pump: Callable[[], None],
    ) -> None:
        """
        Args:
            exchange: reads the answer, and tells the core.
            host: the model server's name or address.
            port: its port.
            limits: hold for all requests.
            now: the runtime's clock.
            pump: carries out what the core wants after an input.
        """
        super().__init__()
        self._exchange = exchange
        self._host = host
        self._port = port
        self._limits = limits
        self._now = now
        self._pump = pump

    async def run(self) -> None:
        exchange = self._exchange
        try:
            with self.scope:
                with anyio.fail_after(self._limits.connect_timeout):
                    connection = await anyio.connect_tcp(self._host, self._port)
                async with connection:
                    sock = connection.extra(SocketAttribute.raw_socket)
                    size = self._limits.receive_buffer
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
                    await connection.send(exchange.request)
                    await self._read(connection)
        except (OSError, anyio.BrokenResourceError):
            pass  # it is lost
        # Also after a cancel: the core knows that it wants nothing more.
        exchange.connection_lost(self._now())
        self._pump()

    async def _read(self, connection: anyio.abc.SocketStream) -> None:
        exchange = self._exchange
        while not exchange.over:
            try:
                data = await connection.receive(self._limits.piece)
            except anyio.EndOfStream:
                exchange.receive_eof(self._now())
                return
            exchange.receive_data(data, self._now())
            self._pump()
            await self.gate.wait()  # and a turn for the others: an unpaced model must not hold all
