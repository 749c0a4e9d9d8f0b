"""The client's settings. Spans in milliseconds, sizes in bytes."""

from typing import Literal, get_args
from urllib.parse import urlencode

import msgspec

from tokenwire.errors import LocalProtocolError
from tokenwire.http.client import check_request
from tokenwire.types import Request

Transport = Literal["polling", "websocket"]

_OWN_QUERY = frozenset({"EIO", "sid", "transport"})
_COUNTS = (
    "connect_timeout", "upgrade_timeout", "close_timeout", "reconnect_delay", "reconnect_delay_max",
    "max_message", "max_fragments", "send_buffer", "json_depth", "json_containers",
    "max_attachments",
)  # fmt: skip


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a client does. The defaults are the stock JavaScript client's, where it has them.

    Raises:
        LocalProtocolError: a value that makes no sense.
    """

    host: str
    """What the Host header says: the server's name, with its port unless it is the usual one."""
    path: str = "/socket.io/"
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    transports: tuple[Transport, ...] = ("polling", "websocket")
    upgrade: bool = True
    """True: begin with polling, where it is the first, and go over to WebSocket when it works."""
    connect_timeout: int = 20_000
    upgrade_timeout: int = 10_000
    """After that the session stays with polling (Node's server gives up after 10 s too)."""
    close_timeout: int = 2_000
    """How long the server may take for the last words of a client that leaves."""
    reconnect: bool = True
    reconnect_attempts: int | None = None
    """None: for ever."""
    reconnect_delay: int = 1_000
    reconnect_delay_max: int = 5_000
    reconnect_jitter: float = 0.5
    """The share of a delay by which it is moved at random, to both sides, within the maximum."""
    max_message: int = 16 * 1024 * 1024
    """The largest message or body that is taken from the server."""
    max_fragments: int = 1_024
    """How many frames a message may come in (as the server's)."""
    send_buffer: int = 16 * 1024 * 1024
    """How much may wait for the server, with a connection and without. One event that is larger
    may wait alone."""
    json_depth: int = 64
    json_containers: int = 100_000
    max_attachments: int = 10

    def __post_init__(self) -> None:
        if not self.transports or not set(self.transports) <= set(get_args(Transport)):
            raise LocalProtocolError("transports must name polling or websocket")
        if not 0 <= self.reconnect_jitter <= 1:
            raise LocalProtocolError("reconnect_jitter must be between 0 and 1")
        for name in _COUNTS:
            if getattr(self, name) < 0:
                raise LocalProtocolError(f"{name} must not be negative")
        if self.reconnect_attempts is not None and self.reconnect_attempts < 0:
            raise LocalProtocolError("reconnect_attempts must not be negative")
        if self.host.split() != [self.host]:
            raise LocalProtocolError("host must be a name or an address")
        if not self.path.startswith("/"):
            raise LocalProtocolError("path must begin with /")
        for key, _ in self.query:
            if key in _OWN_QUERY:
                raise LocalProtocolError(f"the query's {key} is not the program's to set")
        check_request(self.host, Request("GET", self.path, urlencode(self.query), self.headers))
