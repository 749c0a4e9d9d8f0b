"""What the bytes of a connection meant: requests, and what a WebSocket brought.

Rules of this file: values alone; `connection.py` makes them.
"""

import msgspec

from tokenwire.types import Request


class MessageReceived(msgspec.Struct, frozen=True):
    """A WebSocket message."""

    message: bytes


class WebSocketClosed(msgspec.Struct, frozen=True):
    """The peer closed its WebSocket, or was closed for a violation."""


HttpEvent = Request | MessageReceived | WebSocketClosed
