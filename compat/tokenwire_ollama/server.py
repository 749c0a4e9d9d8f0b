"""Ollama's API over HTTP/1.1 on a socket: asyncio moves the bytes, h11 frames them.

Rules of this file: it knows no endpoint (that is `api`) and no model (that is a `Model`). Whatever
a client can make us keep or wait for has a limit in `Limits`. While the model runs for a client,
its socket is read: its end, of one direction or both, cancels the generation, as in Ollama.
"""

import asyncio
import contextlib
import ipaddress
import logging
import time
from email.utils import formatdate
from http import HTTPStatus

import h11
import msgspec

from tokenwire_ollama import api
from tokenwire_ollama.model import Finish, Model, ModelError

_log = logging.getLogger("tokenwire_ollama")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may cost. Sizes in bytes, spans in seconds."""

    pending_requests: int = 64
    """Running and queued together; Ollama's OLLAMA_MAX_QUEUE is 512, on greater machines."""
    head_bytes: int = 16 * 1024  # Node's maxHeaderSize
    body_bytes: int = 1024 * 1024
    ahead_bytes: int = 64 * 1024
    """What a client may send before its answer is complete."""
    head_s: float = 60.0  # also how long a connection may idle between requests
    body_s: float = 30.0
    linger_s: float = 1.0
    """How long a client that still sends is listened to after an error, so that it reads why."""


class OllamaServer:
    """A server with one model. Use `start` once, then `close`."""

    def __init__(
        self, model: Model, *, fallback: bool = True, limits: Limits | None = None
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            fallback: answer requests for any model with this one, and log that.
        """
        self.model = model
        self.fallback = fallback
        self.limits = limits or Limits()
        self.pending = 0
        """Requests that the model runs for or that wait for it."""
        self.loopback = True
        """Whether only this machine can connect."""
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; return the base address, such as `http://127.0.0.1:11435`.

        Args:
            port: 0 picks a free one.

        Raises:
            OSError: the address cannot be used.
        """
        self._listener = await asyncio.start_server(self._connected, host, port)
        addresses = [socket.getsockname()[:2] for socket in self._listener.sockets]
        self.loopback = all(ipaddress.ip_address(name).is_loopback for name, _ in addresses)
        bound, bound_port = addresses[0]
        return f"http://[{bound}]:{bound_port}" if ":" in bound else f"http://{bound}:{bound_port}"

    async def close(self) -> None:
        """Stop listening, cancel what runs and drop every connection."""
        if self._listener is not None:
            self._listener.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_Connection(self, reader, writer).run())
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)


class _Connection:
    """One client's socket: requests one after the other."""

    def __init__(
        self, server: OllamaServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server = server
        self._limits = server.limits
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=server.limits.head_bytes)
        self._method = b""

    async def run(self) -> None:
        """Serve until either side ends the connection."""
        try:
            while await self._exchange():
                self._http.start_next_cycle()
            if self._http.their_state in (h11.SEND_BODY, h11.ERROR):
                await self._linger()
        except ConnectionError:
            pass  # the client is gone: nobody to tell
        except asyncio.CancelledError:
            self._writer.transport.abort()  # closing would wait for a client that does not read
            raise
        finally:
            self._writer.close()

    async def _exchange(self) -> bool:
        """Read one request and answer it; return whether another may follow."""
        self._method = b""
        try:
            request = await self._head()
            if request is None:
                return False
            body = await self._body()
            started = time.monotonic_ns()
            answer = api.answer(
                request.method.decode("ascii"),
                request.target.decode("ascii").partition("?")[0],
                body,
                info=self._server.model.info,
                fallback=self._server.fallback,
                now=_now(),
            )
            if isinstance(answer, api.Reply):
                await self._reply(answer)
            elif not await self._run_while_connected(answer, started):
                return False
        except h11.RemoteProtocolError as error:
            await self._reply(api.ApiError(error.error_status_hint, str(error)).reply())
        except api.ApiError as error:
            await self._reply(error.reply())
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    # -- the request ---------------------------------------------------------------------------

    async def _head(self) -> h11.Request | None:
        try:
            async with asyncio.timeout(self._limits.head_s):
                event = await self._event()
        except TimeoutError:
            if not self._http.trailing_data[0]:
                return None  # it idled
            raise api.ApiError(408, "request timed out") from None
        if isinstance(event, h11.ConnectionClosed):
            return None
        assert isinstance(event, h11.Request)
        self._method = event.method
        if self._server.loopback and not _host_allowed(
            dict(event.headers).get(b"host", b"").decode("latin-1")
        ):
            raise api.ApiError(403, "host not allowed")
        return event

    async def _body(self) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_s):
                while isinstance(event := await self._event(), h11.Data):
                    body += event.data
                    if len(body) > self._limits.body_bytes:
                        raise api.ApiError(413, "request body too large")
        except TimeoutError:
            raise api.ApiError(408, "request timed out") from None
        return bytes(body)

    async def _event(self) -> h11.Event:
        while not isinstance(event := self._http.next_event(), h11.Event):
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(64 * 1024))
        return event

    # -- the answer ----------------------------------------------------------------------------

    async def _reply(self, reply: api.Reply) -> None:
        length = ("content-length", str(len(reply.body)))
        head = self._response(reply.status, reply.content_type, length, *reply.headers)
        body = () if self._method == b"HEAD" else (h11.Data(data=reply.body),)
        await self._send(head, *body, h11.EndOfMessage())

    async def _run_while_connected(self, job: api.Job, started: int) -> bool:
        """Run the model for `job`; return False when the client has gone meanwhile."""
        if self._server.pending >= self._limits.pending_requests:
            raise api.ApiError(503, api.BUSY)
        if job.fell_back:
            _log.info("asked for model %s, answering with %s", job.model, api.MODEL_NAME)
        self._server.pending += 1
        run = asyncio.create_task(self._run(job, started))
        gone = asyncio.create_task(self._until_gone())
        try:
            await asyncio.wait((run, gone), return_when=asyncio.FIRST_COMPLETED)
            if not run.done():
                return False
            run.result()
            return True
        finally:
            run.cancel()
            gone.cancel()
            await asyncio.gather(run, gone, return_exceptions=True)
            self._server.pending -= 1

    async def _run(self, job: api.Job, started: int) -> None:
        text: list[str] = []
        try:
            async with contextlib.aclosing(
                self._server.model.generate(job.messages, job.options)
            ) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finish):
                        last = job.last(
                            piece,
                            text="".join(text),
                            now=_now(),
                            total_ns=time.monotonic_ns() - started,
                        )
                        if job.stream:
                            await self._line(last + b"\n", end=True)
                        else:
                            await self._reply(api.Reply(last))
                        return
                    if job.stream:
                        await self._line(job.piece(piece, now=_now()))
                    else:
                        text.append(piece)
        except ModelError as error:
            # Not the message: the engine may quote the prompt in it.
            _log.warning("a generation failed with status %d", error.status)
            if self._http.our_state is h11.SEND_RESPONSE:
                raise api.ApiError(error.status, str(error)) from error
            await self._line(api.error_line(api.RUN_FAILED), end=True)

    async def _line(self, line: bytes, *, end: bool = False) -> None:
        """Send one line as one chunk; the head goes out with the first one, as in Ollama."""
        first = self._http.our_state is h11.SEND_RESPONSE
        await self._send(
            *((self._response(200, api.NDJSON),) if first else ()),
            h11.Data(data=line),
            *((h11.EndOfMessage(),) if end else ()),
        )

    async def _until_gone(self) -> None:
        """Return when the client ends its direction, resets, or sends too far ahead."""
        ahead = 0
        with contextlib.suppress(ConnectionError):
            while ahead <= self._limits.ahead_bytes:
                data = await self._reader.read(64 * 1024)
                if not data:
                    return
                self._http.receive_data(data)
                ahead += len(data)

    def _response(self, status: int, content_type: str, *headers: tuple[str, str]) -> h11.Response:
        # What is left of a request that was not read to its end cannot be told from the next one.
        close = () if self._http.their_state is h11.DONE else (("connection", "close"),)
        fixed = (("date", formatdate(usegmt=True)), ("content-type", content_type))
        return h11.Response(
            status_code=status,
            reason=HTTPStatus(status).phrase,
            headers=[*fixed, *headers, *close],
        )

    async def _send(self, *events: h11.Event) -> None:
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        await self._writer.drain()

    async def _linger(self) -> None:
        """Let the client read its error: closing on unread bytes would reset the connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                self._writer.write_eof()
                while await self._reader.read(64 * 1024):
                    pass


def _now() -> str:
    return api.timestamp(time.time_ns())


def _host_allowed(host: str) -> bool:
    """Refuse the names that a web page could have pointed at this machine (DNS rebinding)."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name in ("", "localhost") or name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
