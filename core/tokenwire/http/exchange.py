"""One request to the model server over plain HTTP/1.1, and the answer, in the client's role.

Rules of this file: one request a connection, which ends with the answer. h11 writes the request and
reads the head of the answer; a chunked body, which costs it 10 us a token, is read by `chunks.py`.
An answer that breaks a rule ends as FAILED; nothing is raised for it.
"""

import enum

import h11

from tokenwire.errors import RemoteProtocolError
from tokenwire.http.chunks import ChunkedBody
from tokenwire.types import UpstreamRequest

_HEADER_BYTES = 16 * 1024


class State(enum.Enum):
    HEAD = "head"  # of the answer: still to come
    BODY = "body"
    DONE = "done"  # the answer is whole
    FAILED = "failed"  # it is not, and will not be


class Exchange:
    """The bytes of one request and its answer."""

    __slots__ = ("_chunks", "_h11", "request", "state", "status")

    def __init__(self, host: str, base_path: str, request: UpstreamRequest) -> None:
        """
        Args:
            host: what the Host header says.
            base_path: stands before the request's path.
            request: what is asked.
        """
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADER_BYTES)
        self._chunks: ChunkedBody | None = None
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
        self.status: int | None = None
        """The answer's, once its head has come."""

    @property
    def over(self) -> bool:
        """True: nothing more is to be read."""
        return self.state in (State.DONE, State.FAILED)

    def receive_data(self, data: bytes) -> bytes:
        """Take bytes, at least one, cut anywhere. Return what they hold of the body.

        That may be something also where they break a rule behind it.
        """
        body = bytearray()
        if not self.over:
            try:
                if self._chunks is None:
                    self._h11.receive_data(data)
                    self._read(body)
                else:
                    self._read_chunks(self._chunks, data, body)
            except (RemoteProtocolError, h11.RemoteProtocolError):
                self.state = State.FAILED
        return bytes(body)

    def receive_eof(self) -> None:
        """The server sends no more: an answer may end so (RFC 9112 6.3)."""
        if self._chunks is None and not self.over:
            self.receive_data(b"")
        if not self.over:
            self.state = State.FAILED

    def _read_chunks(self, chunks: ChunkedBody, data: bytes, body: bytearray) -> None:
        chunks.feed(data, body)
        if chunks.done:
            self.state = State.DONE

    def _read(self, body: bytearray) -> None:
        while True:
            match self._h11.next_event():
                case h11.Response() as head:
                    self.status = head.status_code
                    self.state = State.BODY
                    if (b"transfer-encoding", b"chunked") in head.headers:
                        self._chunks = ChunkedBody()
                        self._read_chunks(self._chunks, self._h11.trailing_data[0], body)
                        return
                case h11.Data() as data:
                    body += data.data
                case h11.EndOfMessage():
                    self.state = State.DONE
                    return
                case h11.InformationalResponse():
                    pass
                case _:  # it needs more
                    return
