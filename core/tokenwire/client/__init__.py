"""The client's role, without I/O: Socket.IO over Engine.IO over HTTP and WebSocket.

A runtime drives a `Client` as it drives a `Server`: bytes in, outputs polled, bytes pulled.
"""

from tokenwire.client.client import Client
from tokenwire.client.config import ClientConfig
from tokenwire.client.errors import ConnectError
from tokenwire.client.outputs import (
    Acknowledged,
    AckTimedOut,
    ClientOutput,
    ConnectFailed,
    Dial,
    Event,
    Joined,
    Left,
    NamespaceEvent,
    Reconnecting,
    Refused,
)
from tokenwire.outputs import Abort, WantWrite

__all__ = [
    "Abort",
    "AckTimedOut",
    "Acknowledged",
    "Client",
    "ClientConfig",
    "ClientOutput",
    "ConnectError",
    "ConnectFailed",
    "Dial",
    "Event",
    "Joined",
    "Left",
    "NamespaceEvent",
    "Reconnecting",
    "Refused",
    "WantWrite",
]
