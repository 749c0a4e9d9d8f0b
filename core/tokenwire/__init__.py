"""tokenwire: an AI model's tokens over Socket.IO, decided without I/O."""

from tokenwire.config import Config
from tokenwire.endpoint import Endpoint
from tokenwire.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from tokenwire.server import Server

__all__ = [
    "Config",
    "Endpoint",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "Server",
]
