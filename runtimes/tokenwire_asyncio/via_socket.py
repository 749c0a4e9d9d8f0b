"""One request to the model server over a socket of its own: plain HTTP/1.1.

Rules of this file: the core reads the answer (`tokenwire.http.exchange`); a piece costs a tenth of
what httpx takes for it. Each turn of the loop reads one piece at most. There is no read timeout
here: the core has the timers.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from tokenwire.http.exchange import Exchange
from tokenwire.types import Millis, StreamId

from tokenwire_asyncio.call import Limits

_log = logging.getLogger("tokenwire")


class SocketCall(asyncio.BufferedProtocol):
    """A request that is under way."""

    __slots__ = (
        "_buffer",
        "_cancelled",
        "_dialling",
        "_ended",
        "_exchange",
        "_limits",
        "_now",
        "_paused",
        "_pump",
        "_stream",
        "_transport",
        "gone",
    )

    def __init__(
        self,
        stream: StreamId,
        exchange: Exchange,
        buffer: memoryview,
        limits: Limits,
        now: Callable[[], Millis],
        pump: Callable[[], None],
        ended: Callable[[StreamId], None],
    ) -> None:
        """
        Args:
            stream: whose request it is.
            exchange: reads the answer, and tells the core.
            buffer: what is read at once goes here; shared with all others of this loop.
            limits: hold for all requests.
            now: the runtime's clock.
            pump: carries out what the core wants after an input.
            ended: is told when the connection is gone.
        """
        self._transport: asyncio.Transport | None = None
        self._stream = stream
        self._exchange = exchange
        self._buffer = buffer
        self._limits = limits
        self._now = now
        self._pump = pump
        self._ended = ended
        self._paused = False
        self._cancelled = False
        self._dialling: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()
        """Set when nothing of it is left."""

    def dial(self, host: str, port: int) -> None:
        """Connect to the model server, and send the request."""
        self._dialling = asyncio.ensure_future(self._dial(host, port))

    async def _dial(self, host: str, port: int) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: self, host, port)
        except Exception as error:
            if not isinstance(error, OSError):  # as a timeout is
                _log.error("a request to the model server failed", exc_info=error)
            self._exchange.connection_lost(self._now())
            self._pump()
        finally:
            if self._transport is None:  # else it is over when that is
                self._over()

    # -- what the core wants -----------------------------------------------------------------------

    def pause(self) -> None:
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()

    def cancel(self) -> None:
        """Close the connection at once."""
        self._cancelled = True
        if self._transport is not None:
            self._transport.abort()
        elif self._dialling is not None:
            self._dialling.cancel()

    # -- what the socket brings --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._transport = transport
        if self._cancelled:  # meanwhile
            transport.abort()
            return
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._limits.receive_buffer)
        if self._paused:
            transport.pause_reading()
        transport.write(self._exchange.request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._exchange.receive_data(bytes(self._buffer[:nbytes]), self._now())
        self._pump()
        if self._exchange.over and self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> None:
        self._exchange.receive_eof(self._now())
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._exchange.connection_lost(self._now())
        self._pump()
        self._over()

    def _over(self) -> None:
        self._ended(self._stream)
        self.gone.set()
