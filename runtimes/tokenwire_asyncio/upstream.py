"""The model server: over a socket where its address is plain HTTP, through httpx else.

Rules of this file: raw bytes go to the core, which frames them. Whichever way a request takes, it
can be paused, resumed and cancelled at any time, and tells the core how it ended.
"""

import asyncio
from collections.abc import Callable
from typing import Literal

import httpx
from tokenwire import Server
from tokenwire.http.exchange import Exchange
from tokenwire.types import Millis, StreamId, UpstreamRequest

from tokenwire_asyncio.call import Call, Limits
from tokenwire_asyncio.via_httpx import Httpx, HttpxCall
from tokenwire_asyncio.via_socket import SocketCall

_LIMITS = Limits(
    connect_timeout=10.0,
    receive_buffer=64 * 1024,  # without it, the kernel takes megabytes, and hides a pause
    piece=16 * 1024,  # 3 ms of the shortest lines
)

UpstreamClient = Literal["auto", "httpx"]
"""What asks the model server: "auto" takes a socket alone where that is enough."""


def _checked(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL:
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        raise ValueError(f"upstream_url must be http:// or https:// and a host, not {url!r}")
    return base


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
        self._core = core
        self._base_url = base = _checked(base_url)
        # A name and a password are httpx's to send.
        self._is_plain = client == "auto" and base.scheme == "http" and not base.userinfo
        self._httpx = Httpx(base, _LIMITS)
        self._now = now
        self._pump = pump
        self._buffer = memoryview(bytearray(_LIMITS.piece))
        self._calls: dict[StreamId, Call] = {}
        self._probes: set[asyncio.Task[None]] = set()

    def start(self, stream: StreamId, request: UpstreamRequest) -> None:
        make = self._by_socket if self._is_plain else self._by_httpx
        self._calls[stream] = make(stream, request)

    def _by_socket(self, stream: StreamId, request: UpstreamRequest) -> Call:
        base = self._base_url
        host, path = base.netloc.decode(), base.raw_path.decode().rstrip("/")
        exchange = Exchange(self._core, stream, host, path, request)
        call = SocketCall(
            stream, exchange, self._buffer, _LIMITS, self._now, self._pump, self._ended
        )
        call.dial(base.host, base.port or 80)
        return call

    def _by_httpx(self, stream: StreamId, request: UpstreamRequest) -> Call:
        return HttpxCall(
            self._core, stream, request, self._httpx, self._now, self._pump, self._ended
        )

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
        task = asyncio.ensure_future(self._probe(request))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, request: UpstreamRequest) -> None:
        status, body = await self._httpx.probe(request)
        self._core.upstream_probed(status, body, self._now())
        self._pump()

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
