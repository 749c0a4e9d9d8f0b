"""The model server: over a socket where its address is plain HTTP, through httpx else.

Rules of this file: raw bytes go to the core, which frames them. Whichever way a request takes, it
can be paused, resumed and cancelled at any time, and tells the core how it ended.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Literal

from tokenwire import Server
from tokenwire.http import plain
from tokenwire.http.exchange import Exchange
from tokenwire.http.plain import PlainAddress
from tokenwire.types import Millis, StreamId, UpstreamRequest

from tokenwire_asyncio.call import Call, Client, Limits
from tokenwire_asyncio.via_socket import SocketCall

_LIMITS = Limits(
    connect_timeout=10.0,
    probe_timeout=5.0,
    receive_buffer=64 * 1024,  # without it, the kernel takes megabytes, and hides a pause
    piece=16 * 1024,  # 3 ms of the shortest lines
)
_PROBE = StreamId(0)  # the name of no stream

UpstreamClient = Literal["auto", "httpx"]
"""What asks the model server: "auto" takes a socket alone where that is enough."""


class _Sockets:
    """Asks a model server at a plain address (`call.Client`)."""

    def __init__(
        self,
        address: PlainAddress,
        core: Server,
        now: Callable[[], Millis],
        pump: Callable[[], None],
    ) -> None:
        self._address = address
        self._core = core
        self._now = now
        self._pump = pump
        self._buffer = memoryview(bytearray(_LIMITS.piece))

    def call(
        self, stream: StreamId, request: UpstreamRequest, ended: Callable[[StreamId], None]
    ) -> Call:
        return self._begin(stream, self._address.exchange(self._core, stream, request), ended)

    async def probe(self, request: UpstreamRequest) -> None:
        exchange = self._address.probe(self._core, request)
        call = self._begin(_PROBE, exchange, lambda stream: None)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LIMITS.probe_timeout):
                    await call.gone.wait()
        finally:
            call.cancel()
            await call.gone.wait()
        exchange.connection_lost(self._now())  # if it is not over, it was too late
        self._pump()

    def _begin(
        self, stream: StreamId, exchange: Exchange, ended: Callable[[StreamId], None]
    ) -> SocketCall:
        call = SocketCall(stream, exchange, self._buffer, _LIMITS, self._now, self._pump, ended)
        call.dial(self._address.host, self._address.port)
        return call


class Upstreams:
    """All requests to the model server that are under way."""

    def __init__(
        self,
        core: Server,
        base_url: str,
        client: UpstreamClient,
        now: Callable[[], Millis],
        pump: Callable[[], None],
    ) -> None:
        """
        Args:
            core: gets what comes back.
            base_url: the model server's address.
            client: what asks it.
            now: the runtime's clock.
            pump: carries out what the core wants after an input.

        Raises:
            ValueError: `base_url` is no http or https address.
        """
        self._client = _client(core, base_url, client, now, pump)
        self._calls: dict[StreamId, Call] = {}
        self._probes: set[asyncio.Task[None]] = set()

    def start(self, stream: StreamId, request: UpstreamRequest) -> None:
        self._calls[stream] = self._client.call(stream, request, self._ended)

    def _ended(self, stream: StreamId) -> None:
        del self._calls[stream]

    def pause(self, stream: StreamId) -> None:
        if (call := self._calls.get(stream)) is not None:
            call.pause()

    def resume(self, stream: StreamId) -> None:
        if (call := self._calls.get(stream)) is not None:
            call.resume()

    def cancel(self, stream: StreamId) -> None:
        if (call := self._calls.get(stream)) is not None:
            call.cancel()

    def probe(self, request: UpstreamRequest) -> None:
        task = asyncio.ensure_future(self._client.probe(request))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def aclose(self) -> None:
        """Close all connections to the model server."""
        for task in self._probes:
            task.cancel()
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        for call in calls:
            await call.gone.wait()


def _client(
    core: Server,
    base_url: str,
    client: UpstreamClient,
    now: Callable[[], Millis],
    pump: Callable[[], None],
) -> Client:
    address = plain.parse(base_url) if client == "auto" else None
    if address is not None:
        return _Sockets(address, core, now, pump)
    # Here, not above: httpx takes longer to import than all else, and few servers need it.
    from tokenwire_asyncio.via_httpx import Httpx

    return Httpx(base_url, _LIMITS, core, now, pump)
