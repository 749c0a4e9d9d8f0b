"""Requests to the model server through httpx: for TLS, and for what else a socket alone is not.

Rules of this file: one AsyncClient a stream (httpx leaks pool slots when requests of one client are
cancelled again and again), one SSLContext for all (making one costs 20 ms, a client 0.01 ms).
Redirects are not followed: only the configured server is ever asked. There is no read timeout for
a stream: the core has the timers.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import cached_property

import httpx
from tokenwire import Server
from tokenwire.http.plain import LIST_BYTES
from tokenwire.types import Millis, StreamId, UpstreamRequest

from tokenwire_asyncio.call import Limits

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

    def call(
        self, stream: StreamId, request: UpstreamRequest, ended: Callable[[StreamId], None]
    ) -> "HttpxCall":
        return HttpxCall(self._core, stream, request, self, self._now, self._pump, ended)

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
            async with (
                asyncio.timeout(self.limits.probe_timeout),
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


class HttpxCall:
    """A request that is under way."""

    def __init__(
        self,
        core: Server,
        stream: StreamId,
        request: UpstreamRequest,
        through: Httpx,
        now: Callable[[], Millis],
        pump: Callable[[], None],
        ended: Callable[[StreamId], None],
    ) -> None:
        """
        Args:
            core: gets what comes back.
            stream: whose request it is.
            request: what is asked.
            through: makes the client.
            now: the runtime's clock.
            pump: carries out what the core wants after an input.
            ended: is told when nothing of it is left.
        """
        self._core = core
        self._stream = stream
        self._through = through
        self._now = now
        self._pump = pump
        self._ended = ended
        self._gate = asyncio.Event()
        self._gate.set()
        self.gone = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(request))
        self._task.add_done_callback(self._over)

    def pause(self) -> None:
        self._gate.clear()

    def resume(self) -> None:
        self._gate.set()

    def cancel(self) -> None:
        self._task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._ended(self._stream)
        self.gone.set()

    async def _run(self, request: UpstreamRequest) -> None:
        reached = False
        try:
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
                async for data in response.aiter_raw():
                    await self._hand_on(data)
        except Exception as error:
            _log_unexpected(error)
            self._core.upstream_failed(self._stream, self._now(), reached=reached)
        else:
            self._core.upstream_eof(self._stream, self._now())
        self._pump()

    async def _hand_on(self, data: bytes) -> None:
        size = self._through.limits.piece
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self._core.receive_upstream(self._stream, piece, self._now())
            self._pump()
            await self._gate.wait()
            await asyncio.sleep(0)  # an unpaced model must not hold the loop
