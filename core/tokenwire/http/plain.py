"""The model server over plain HTTP: its address, and what is asked there.

Rules of this file: only what a socket alone can do. TLS, a name and a password, a name that is not
ASCII, a query: such an address is none of these, and somebody else's.
"""

import ipaddress
import re
from typing import Protocol

import msgspec

from tokenwire.http.exchange import Exchange, Listener
from tokenwire.types import Millis, StreamId, UpstreamRequest

_ADDRESS = re.compile(
    r"http://(?P<authority>(?:(?P<name>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])"
    r"(?::(?P<port>[0-9]{1,5}))?)(?P<path>(?:/[A-Za-z0-9._~-]*)*)"
)
_HTTP_PORT = 80
_MAX_PORT = 65_535
LIST_BYTES = 1024 * 1024
"""The most that is read of the list of models, which answers a probe."""
_NO_STREAM = StreamId(0)


class Core(Listener, Protocol):
    """Who is told (`endpoint.py`)."""

    def upstream_probed(self, status: int | None, body: bytes, now: Millis) -> None: ...


class PlainAddress(msgspec.Struct, frozen=True):
    """Where to dial, and what to ask there."""

    host: str
    port: int
    authority: str
    """For the Host header."""
    path: str
    """Stands before that of a request."""

    def exchange(self, core: Core, stream: StreamId, request: UpstreamRequest) -> Exchange:
        """Return the request of a stream, which tells the core how it goes."""
        return Exchange(core, stream, self.authority, self.path, request)

    def probe(self, core: Core, request: UpstreamRequest) -> Exchange:
        """Return a look at the model server, which says `upstream_probed` once."""
        return Exchange(_Probe(core), _NO_STREAM, self.authority, self.path, request)


def parse(url: str) -> PlainAddress | None:
    """Return the parts of a model server's address, or None: it is no plain one."""
    match = _ADDRESS.fullmatch(url)
    if match is None:
        return None
    port = int(match["port"] or _HTTP_PORT)
    if not 1 <= port <= _MAX_PORT:
        return None
    host = match["name"] or match["ipv6"]
    if match["ipv6"] or host.replace(".", "").isdigit():
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return None
    return PlainAddress(host, port, match["authority"], match["path"].rstrip("/"))


class _Probe:
    """Collects the answer to a probe (`exchange.Listener`)."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._status: int | None = None
        self._body = bytearray()

    def upstream_answered(self, stream: StreamId, status: int, now: Millis) -> None:
        self._status = status

    def receive_upstream(self, stream: StreamId, data: bytes, now: Millis) -> None:
        if len(self._body) <= LIST_BYTES:  # what is cut is no list, and the core will say so
            self._body += data

    def upstream_eof(self, stream: StreamId, now: Millis) -> None:
        self._core.upstream_probed(self._status, bytes(self._body), now)

    def upstream_failed(self, stream: StreamId, now: Millis, *, reached: bool) -> None:
        self._core.upstream_probed(None, b"", now)
