"""The model server, through httpx.

Rules of this file: raw bytes go to the core, which frames them. One AsyncClient a stream (httpx
leaks pool slots when requests of one client are cancelled again and again), one SSLContext for all
(making one costs 20 ms, a client 0.01 ms). Redirects are not followed: only the configured server
is ever asked. There is no read timeout here: the core has the timers.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial

import httpx
from tokenwire import Server
from tokenwire.types import Millis, StreamId, UpstreamRequest

_CONNECT_TIMEOUT = 10.0  # seconds
_PROBE_TIMEOUT = 5.0  # seconds
_PROBE_BYTES = 1024 * 1024
_PIECE_BYTES = 16 * 1024  # of an answer, between two turns of the loop: 3 ms of the shortest lines
# Without this the kernel takes megabytes of a paused model's text, and hides the pause.
_SOCKET_OPTIONS = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024),)
_log = logging.getLogger("tokenwire")


def _checked(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL:
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        raise ValueError(f"upstream_url must be http:// or https:// and a host, not {url!r}")
    return base


def _log_unexpected(error: Exception) -> None:
    """Log what is no failure of the network's; of those the core tells."""
    if not isinstance(error, httpx.HTTPError | TimeoutError):
        _log.error("a request to the model server failed", exc_info=error)


class Upstreams:
    """All requests to the model server that are under way."""

    def __init__(
        self, core: Server, base_url: str, now: Callable[[], Millis], pump: Callable[[], None]
    ) -> None:
        """
        Args:
            core: gets what comes back.
            base_url: the model server's address.
            now: the runtime's clock.
            pump: carries out what the core wants after an input.

        Raises:
            ValueError: `base_url` is no http or https address.
        """
        self._core = core
        self._base_url = _checked(base_url)
        self._now = now
        self._pump = pump
        self._ssl = ssl.create_default_context()
        self._tasks: dict[StreamId, asyncio.Task[None]] = {}
        self._gates: dict[StreamId, asyncio.Event] = {}
        self._probes: set[asyncio.Task[None]] = set()

    def start(self, stream: StreamId, request: UpstreamRequest) -> None:
        gate = self._gates[stream] = asyncio.Event()
        gate.set()
        task = asyncio.ensure_future(self._run(stream, request, gate))
        self._tasks[stream] = task
        task.add_done_callback(partial(self._done, stream))

    def _done(self, stream: StreamId, task: asyncio.Task[None]) -> None:
        del self._tasks[stream]
        del self._gates[stream]

    def pause(self, stream: StreamId) -> None:
        if (gate := self._gates.get(stream)) is not None:
            gate.clear()

    def resume(self, stream: StreamId) -> None:
        if (gate := self._gates.get(stream)) is not None:
            gate.set()

    def cancel(self, stream: StreamId) -> None:
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()

    def _client(self, read_timeout: float | None) -> httpx.AsyncClient:
        timeout = httpx.Timeout(_CONNECT_TIMEOUT, read=read_timeout)
        transport = httpx.AsyncHTTPTransport(verify=self._ssl, socket_options=_SOCKET_OPTIONS)
        return httpx.AsyncClient(
            base_url=self._base_url,
            transport=transport,
            timeout=timeout,
            headers={"accept-encoding": "identity"},
        )

    async def _run(self, stream: StreamId, request: UpstreamRequest, gate: asyncio.Event) -> None:
        reached = False
        try:
            async with (
                self._client(None) as client,
                client.stream(
                    request.method,
                    request.path,
                    headers=[*request.headers],
                    content=request.body,
                ) as response,
            ):
                reached = True
                self._core.upstream_answered(stream, response.status_code, self._now())
                self._pump()
                async for data in response.aiter_raw():
                    for start in range(0, len(data), _PIECE_BYTES):
                        piece = data[start : start + _PIECE_BYTES]
                        self._core.receive_upstream(stream, piece, self._now())
                        self._pump()
                        await gate.wait()
                        await asyncio.sleep(0)  # an unpaced model must not hold the loop
        except Exception as error:
            _log_unexpected(error)
            self._core.upstream_failed(stream, self._now(), reached=reached)
        else:
            self._core.upstream_eof(stream, self._now())
        self._pump()

    def probe(self, request: UpstreamRequest) -> None:
        task = asyncio.ensure_future(self._probe(request))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _probe(self, request: UpstreamRequest) -> None:
        status, body = None, b""
        try:
            async with (
                asyncio.timeout(_PROBE_TIMEOUT),
                self._client(_PROBE_TIMEOUT) as client,
                client.stream(request.method, request.path) as response,
            ):
                async for data in response.aiter_bytes():
                    body += data
                    if len(body) > _PROBE_BYTES:
                        break
                status = response.status_code
        except Exception as error:
            _log_unexpected(error)
            status, body = None, b""
        self._core.upstream_probed(status, body, self._now())
        self._pump()

    async def aclose(self) -> None:
        """Close all connections to the model server."""
        tasks = [*self._tasks.values(), *self._probes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
