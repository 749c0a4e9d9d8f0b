"""The client's settings. Spans in milliseconds, sizes in bytes."""

from typing import Literal

import msgspec

from tokenwire.errors import LocalProtocolError

Transport = Literal["polling", "websocket"]


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a client does. The defaults are the stock JavaScript client's.

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
    """True: begin with the first transport, go over to WebSocket when it works."""
    connect_timeout: int = 20_000
    reconnect: bool = True
    reconnect_attempts: int | None = None
    """None: for ever."""
    reconnect_delay: int = 1_000
    reconnect_delay_max: int = 5_000
    reconnect_jitter: float = 0.5
    """The share of a delay by which it is moved at random, to both sides."""
    max_message: int = 16 * 1024 * 1024
    """The largest message or body that is taken from the server."""
    send_buffer: int = 1024 * 1024
    """How much may wait while there is no connection."""
    json_depth: int = 64
    json_containers: int = 100_000
    max_attachments: int = 10

    def __post_init__(self) -> None:
        if not self.transports:
            raise LocalProtocolError("transports must name polling or websocket")
        if not 0 <= self.reconnect_jitter <= 1:
            raise LocalProtocolError("reconnect_jitter must be between 0 and 1")
