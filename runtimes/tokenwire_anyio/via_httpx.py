"""Requests to the model server through httpx: for TLS, and for what else a socket alone is not.

Rules of this file: as in `tokenwire_asyncio/via_httpx.py`: one AsyncClient a stream, one SSLContext
for all; no redirects, no read timeout for a stream.
"""

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from functools import cached_property

import anyio
import anyio.lowlevel
import httpx
from tokenwire import Server
from tokenwire.http.plain import LIST_BYTES
from tokenwire.types import Millis, StreamId, UpstreamRequest

from tokenwire_anyio.call import Call, Limits

_log = logging.getLogger("tokenwire")


def _log_unexpected(error: Exception) -> None:
    """Log what is no failure of the network's; of those the core tells."""
    if not isinstance(error, httpx.HTTPError | TimeoutError):
        _log.error("a request to the model server failed", exc_info=error)


def _checked(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL:
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        raise ValueError(f"upstream_url must be http:// or https:// and a host, not {url!r}")
    return base


class Httpx:
    """Asks the model server (`call.Client`): what all requests have in common."""

    def __init__(
        self,
        base_url: str,
        limits: Limits,
        core: Server,
        now: Callable[[], Millis],
        pump: Callable[[], None],
    ) -> None:
        """
        Args:
            base_url: the model server's address.
            limits: hold for all requests.
            core: gets what comes back.
            now: the runtime's clock.
            pump: carries out what the core wants after an input.

        Raises:
            ValueError: `base_url` is no http or https address.
        """
        self._base_url = _checked(base_url)
        self.limits = limits
        self._core = core
        self._now = now
        self._pump = pump

    @cached_property
    def _ssl(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def call(self, stream: StreamId, request: UpstreamRequest) -> "HttpxCall":
        return HttpxCall(self._core, stream, request, self, self._now, self._pump)

    def client(self, read_timeout: float | None) -> httpx.AsyncClient:
        options = ((socket.SOL_SOCKET, socket.SO_RCVBUF, self.limits.receive_buffer),)
        verify = self._ssl if self._base_url.scheme == "https" else False
        return httpx.AsyncClient(
            base_url=self._base_url,
            transport=httpx.AsyncHTTPTransport(verify=verify, socket_options=options),
            timeout=httpx.Timeout(self.limits.connect_timeout, read=read_timeout),
            headers={"accept-encoding": "identity"},
        )

    async def probe(self, request: UpstreamRequest) -> None:
        status, body = await self._look(request)
        self._core.upstream_probed(status, body, self._now())
        self._pump()

    async def _look(self, request: UpstreamRequest) -> tuple[int | None, bytes]:
        """Return the status and the body of a short answer; None: there was none."""
        status, body = None, b""
        try:
            with anyio.fail_after(self.limits.probe_timeout):
                async with (
                    self.client(self.limits.probe_timeout) as client,
                    client.stream(request.method, request.path) as response,
                ):
                    async for data in response.aiter_bytes():
                        body += data
                        if len(body) > LIST_BYTES:
                            break
                    status = response.status_code
        except Exception as error:
            _log_unexpected(error)
            return None, b""
        return status, body


class HttpxCall(Call):
    """A request that is under way."""

    def __init__(
        self,
        core: Server,
        stream: StreamId,
        request: UpstreamRequest,
        through: Httpx,
        now: Callable[[], Millis],
        pump: Callable[[], None],
    ) -> None:
        """
        Args:
            core: gets what comes back.
            stream: whose request it is.
            request: what is asked.
            through: makes the client.
            now: the runtime's clock.
            pump: carries out what the core wants after an input.
        """
        super().__init__()
        self._core = core
        self._stream = stream
        self._request = request
        self._through = through
        self._now = now
        self._pump = pump

    async def run(self) -> None:
        request = self._request
        reached = False
        try:
            with self.scope:
                async with (
                    self._through.client(None) as client,
                    client.stream(
                        request.method,
                        request.path,
                        headers=[*request.headers],
                        content=request.body,
                    ) as response,
                ):
                    reached = True
                    self._core.upstream_answered(self._stream, response.status_code, self._now())
                    self._pump()
                    await self._read(response)
        except Exception as error:
            _log_unexpected(error)
            self._core.upstream_failed(self._stream, self._now(), reached=reached)
        else:
            # Also after a cancel: the core knows that it wants nothing more.
            self._core.upstream_eof(self._stream, self._now())
        self._pump()

    async def _read(self, response: httpx.Response) -> None:
        size = self._through.limits.piece
        cancelled = anyio.get_cancelled_exc_class()
        body = response.aiter_raw()
        async for data in body:
            try:
                for start in range(0, len(data), size):
                    piece = data[start : start + size]
                    self._core.receive_upstream(self._stream, piece, self._now())
                    self._pump()
                    await self.gate.wait()
                    await anyio.lowlevel.checkpoint()  # an unpaced model must not hold the loop
            except cancelled:
                # httpx's generators stand one in the other; only an exception from the innermost
                # closes them all. In a cancelled scope the next read of the socket raises it.
                with contextlib.suppress(cancelled, httpx.HTTPError, StopAsyncIteration):
                    while True:
                        await anext(body)
                raise
