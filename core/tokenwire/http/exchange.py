"""One request to the model server over plain HTTP/1.1, and the answer, in the client's role.

Rules of this file: one request a connection, which ends with the answer. h11 writes the request and
reads the head of the answer; a chunked body, which costs it 10 us a token, is read by `chunks.py`.
An answer that breaks a rule ends as FAILED. What comes is told to the core, its end once; nothing
is raised for it, and whatever a runtime brings afterwards does nothing.
"""

import enum
from typing import Any, Protocol, cast

import h11

from tokenwire.errors import RemoteProtocolError
from tokenwire.http.chunks import ChunkedBody
from tokenwire.types import Millis, StreamId, UpstreamRequest

_HEADER_BYTES = 16 * 1024  # as from a Socket.IO server (`client.py`)


class State(enum.Enum):
    HEAD = "head"  # of the answer: still to come
    BODY = "body"
    DONE = "done"  # the answer is whole
    FAILED = "failed"  # it is not, and will not be


class Listener(Protocol):
    """Who is told (`endpoint.py`)."""

    def upstream_answered(self, stream: StreamId, status: int, now: Millis) -> None: ...

    def receive_upstream(self, stream: StreamId, data: bytes, now: Millis) -> None: ...

    def upstream_eof(self, stream: StreamId, now: Millis) -> None: ...

    def upstream_failed(self, stream: StreamId, now: Millis, *, reached: bool) -> None: ...


class Exchange:
    """The bytes of one request and its answer."""

    __slots__ = ("_chunks", "_h11", "_listener", "_status", "_stream", "over", "request", "state")

    def __init__(
        self,
        listener: Listener,
        stream: StreamId,
        host: str,
        base_path: str,
        request: UpstreamRequest,
    ) -> None:
        """
        Args:
            listener: the core.
            stream: whose request it is.
            host: what the Host header says.
            base_path: stands before the request's path.
            request: what is asked.
        """
        self._listener = listener
        self._stream = stream
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADER_BYTES)
        self._chunks: ChunkedBody | None = None
        self._status: int | None = None
        headers = [
            ("host", host),
            ("accept-encoding", "identity"),
            ("connection", "close"),
            *request.headers,
            ("content-length", str(len(request.body))),
        ]
        target = base_path + request.path
        head = h11.Request(method=request.method, target=target, headers=headers)
        self.request = (self._h11.send(head) or b"") + request.body
        """What to send."""
        self._h11.send(h11.Data(data=request.body))
        self._h11.send(h11.EndOfMessage())
        self.state = State.HEAD
        self.over = False
        """True: nothing more is to be read; close the socket."""

    def receive_data(self, data: bytes, now: Millis) -> None:
        """Take bytes, cut anywhere."""
        if not self.over:
            self._receive(data, now)

    def _receive(self, data: bytes, now: Millis) -> None:
        body = bytearray()
        heading = self._status is None
        try:
            if self._chunks is None:
                self._h11.receive_data(data)
                self._read(body)
            else:
                self._read_chunks(self._chunks, data, body)
        except (RemoteProtocolError, h11.RemoteProtocolError):
            self._end(State.FAILED)  # what came before is told
        if heading and self._status is not None:
            self._listener.upstream_answered(self._stream, self._status, now)
        if body:
            self._listener.receive_upstream(self._stream, bytes(body), now)
        if self.over:
            self._tell_end(now)

    def receive_eof(self, now: Millis) -> None:
        """The server sends no more: an answer may end so (RFC 9112 6.3)."""
        if self._chunks is None:
            self.receive_data(b"", now)
        self.connection_lost(now)

    def connection_lost(self, now: Millis) -> None:
        """The socket is gone, or there never was one. Harmless when said twice."""
        if not self.over:
            self._end(State.FAILED)
            self._tell_end(now)

    def _read_chunks(self, chunks: ChunkedBody, data: bytes, body: bytearray) -> None:
        chunks.feed(data, body)
        if chunks.done:
            self._end(State.DONE)

    def _read(self, body: bytearray) -> None:
        while True:
            match self._h11.next_event():
                case h11.Response() as head:
                    self._status = head.status_code
                    self.state = State.BODY
                    if (b"transfer-encoding", b"chunked") in head.headers:
                        self._chunks = ChunkedBody()
                        self._read_chunks(self._chunks, self._h11.trailing_data[0], body)
                        return
                case h11.Data() as data:
                    body += cast(Any, data).data  # a bytearray, whatever h11 says
                case h11.EndOfMessage():
                    self._end(State.DONE)
                    return
                case h11.InformationalResponse():
                    pass
                case _:  # it needs more
                    return

    def _end(self, state: State) -> None:
        self.state = state
        self.over = True

    def _tell_end(self, now: Millis) -> None:
        if self.state is State.DONE:
            self._listener.upstream_eof(self._stream, now)
        else:
            reached = self._status is not None
            self._listener.upstream_failed(self._stream, now, reached=reached)
