"""The model server: over a socket where its address is plain HTTP, through httpx else.

Rules of this file: as in `tokenwire_asyncio/upstream.py`: raw bytes go to the core. A stream is a
task in the runtime's group; its cancel scope is what CancelUpstream cancels.
"""

from collections.abc import Callable
from typing import Literal

import anyio
import anyio.abc
from tokenwire import Server
from tokenwire.http import plain
from tokenwire.http.exchange import Exchange
from tokenwire.http.plain import PlainAddress
from tokenwire.types import Millis, StreamId, UpstreamRequest

from tokenwire_anyio.call import Call, Client, Limits
from tokenwire_anyio.via_socket import SocketCall

_LIMITS = Limits(
    connect_timeout=10.0,
    probe_timeout=5.0,
    receive_buffer=64 * 1024,  # without it, the kernel takes megabytes, and hides a pause
    piece=16 * 1024,  # 3 ms of the shortest lines
)

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

    def call(self, stream: StreamId, request: UpstreamRequest) -> Call:
        return self._call(self._address.exchange(self._core, stream, request))

    async def probe(self, request: UpstreamRequest) -> None:
        exchange = self._address.probe(self._core, request)
        with anyio.move_on_after(_LIMITS.probe_timeout):
            await self._call(exchange).run()
        exchange.connection_lost(self._now())  # if it is not over, it was too late
        self._pump()

    def _call(self, exchange: Exchange) -> SocketCall:
        address = self._address
        return SocketCall(exchange, address.host, address.port, _LIMITS, self._now, self._pump)


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

    def start(self, tasks: anyio.abc.TaskGroup, stream: StreamId, request: UpstreamRequest) -> None:
        self._calls[stream] = call = self._client.call(stream, request)
        tasks.start_soon(self._run, stream, call)

    async def _run(self, stream: StreamId, call: Call) -> None:
        try:
            await call.run()
        finally:
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

    async def probe(self, request: UpstreamRequest) -> None:
        await self._client.probe(request)


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
    from tokenwire_anyio.via_httpx import Httpx

    return Httpx(base_url, _LIMITS, core, now, pump)
