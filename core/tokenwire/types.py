"""The words that every layer shares.

Rules of this file: values only, no behaviour that needs another module of the project. Every
instant and every span is in whole milliseconds.
"""

from typing import NewType, Protocol

import msgspec

Millis = NewType("Millis", int)
"""An instant of the caller's monotonic clock, or a span: whole milliseconds, arbitrary zero."""

ConnId = NewType("ConnId", int)
"""One socket's connection (or, under a message door, one request or WebSocket). Never reused."""

StreamId = NewType("StreamId", int)
"""One stream inside this process. Never the client's `streamId`, which is scoped to its session."""


class IdSource(Protocol):
    """Where the core gets what must not be guessed. The core itself draws no randomness."""

    def random_bytes(self, count: int) -> bytes:
        """Return `count` bytes from a cryptographically secure source."""
        ...


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end of a connection."""

    host: str | None = None
    """Address as text; None where the transport has none (a Unix socket)."""
    port: int | None = None


class Deadline(msgspec.Struct, frozen=True):
    """The next instant at which the core wants `handle_timeout`, and why."""

    at: Millis
    reason: str
    """The name of the timer (`timers.Timer`), for logs and tests."""


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """What to write to a socket now."""

    data: bytes
    end: bool = False
    """True: after `data` the connection is over; close the socket once `data` is written."""
    last: bool = False
    """True: nothing more waits. Who asks again gets nothing; the next WantWrite tells of more."""


Headers = tuple[tuple[str, str], ...]
"""Header fields in order; names in lower case."""


class Request(msgspec.Struct, frozen=True):
    """One whole HTTP request."""

    method: str
    path: str
    """Percent-encoded as it came, without the query."""
    query: str = ""
    headers: Headers = ()
    body: bytes = b""
    peer: Peer = Peer()
    upgrade: bool = False
    """True for a WebSocket handshake (RFC 6455 4.2.1) that the HTTP layer has found in order."""

    def header(self, name: str) -> str | None:
        """Return the value of the first field with this lower-case name, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Response(msgspec.Struct, frozen=True):
    """One whole HTTP response. `content-length`, `date` and `connection` are the HTTP layer's."""

    status: int
    headers: Headers = ()
    body: bytes = b""


class UpstreamRequest(msgspec.Struct, frozen=True):
    """The request that starts a model's stream, relative to the model server's base address."""

    method: str
    path: str
    body: bytes = b""
    headers: Headers = (("content-type", "application/json"),)
