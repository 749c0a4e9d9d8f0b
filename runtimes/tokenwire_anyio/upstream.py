"""The model server, through httpx.

Rules of this file: as in `tokenwire_asyncio/upstream.py`: raw bytes go to the core; one AsyncClient
a stream, one SSLContext for all; no redirects, no read timeout (the core has the timers). A stream
is a task in the runtime's group; its cancel scope is what CancelUpstream cancels.
"""

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
from tokenwire import Server
from tokenwire.types import Millis, StreamId, UpstreamRequest

_CONNECT_TIMEOUT = 10.0  # seconds
_PROBE_TIMEOUT = 5.0  # seconds
_PROBE_BYTES = 1024 * 1024
_PIECE_BYTES = 16 * 1024  # of an answer, between two turns of the loop: 3 ms of the shortest lines
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


class _Call:
    """One request that is under way."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.gate = anyio.Event()
        self.gate.set()


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
        self._calls: dict[StreamId, _Call] = {}

    def start(self, tasks: anyio.abc.TaskGroup, stream: StreamId, request: UpstreamRequest) -> None:
        call = self._calls[stream] = _Call()
        tasks.start_soon(self._run, stream, request, call)

    def pause(self, stream: StreamId) -> None:
        if (call := self._calls.get(stream)) is not None:
            call.gate = anyio.Event()

    def resume(self, stream: StreamId) -> None:
        if (call := self._calls.get(stream)) is not None:
            call.gate.set()

    def cancel(self, stream: StreamId) -> None:
        call = self._calls.get(stream)
        if call is not None:
            call.scope.cancel()

    def _client(self, read_timeout: float | None) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._base_url,
            transport=httpx.AsyncHTTPTransport(verify=self._ssl, socket_options=_SOCKET_OPTIONS),
            timeout=httpx.Timeout(_CONNECT_TIMEOUT, read=read_timeout),
            headers={"accept-encoding": "identity"},
        )

    async def _run(self, stream: StreamId, request: UpstreamRequest, call: _Call) -> None:
        reached = False
        try:
            with call.scope:
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
                    await self._read(stream, response, call)
        except Exception as error:
            _log_unexpected(error)
            self._core.upstream_failed(stream, self._now(), reached=reached)
        else:
            # Also after a cancel: the core knows that it wants nothing more.
            self._core.upstream_eof(stream, self._now())
        finally:
            del self._calls[stream]
        self._pump()

    async def _read(self, stream: StreamId, response: httpx.Response, call: _Call) -> None:
        cancelled = anyio.get_cancelled_exc_class()
        body = response.aiter_raw()
        async for data in body:
            try:
                for start in range(0, len(data), _PIECE_BYTES):
                    piece = data[start : start + _PIECE_BYTES]
                    self._core.receive_upstream(stream, piece, self._now())
                    self._pump()
                    await call.gate.wait()
                    await anyio.lowlevel.checkpoint()  # an unpaced model must not hold the loop
            except cancelled:
                # httpx's generators stand one in the other; only an exception from the innermost
                # closes them all. In a cancelled scope the next read of the socket raises it.
                with contextlib.suppress(cancelled, httpx.HTTPError, StopAsyncIteration):
                    while True:
                        await anext(body)
                raise

    async def probe(self, request: UpstreamRequest) -> None:
        status, body = None, b""
        try:
            with anyio.fail_after(_PROBE_TIMEOUT):
                async with (
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
