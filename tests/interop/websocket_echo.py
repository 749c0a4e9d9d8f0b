"""A plain WebSocket echo server on the core's HTTP layer, for conformance cases.

Rules of this file: every message goes back as it came; the limits are wide enough for the largest
case of the Autobahn suite. No Engine.IO here: the layer is tested alone.
"""

import asyncio

from tokenwire.config import Config
from tokenwire.http.connection import HttpConnection
from tokenwire.http.events import MessageReceived, WebSocketClosed
from tokenwire.types import Peer, Request, Response

CONFIG = Config(max_payload=64 * 1024 * 1024, max_fragments=1024 * 1024)
WRITE_BYTES = 256 * 1024


class Echo(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.http = HttpConnection(Peer(), CONFIG)
        self.blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.http.receive_data(data)
        for event in self.http.take_events():
            match event:
                case Request() as request:
                    self.http.send_response(Response(101 if request.upgrade else 404))
                case MessageReceived(message=message):
                    self.http.send_messages([message])
                case WebSocketClosed():
                    pass
        self.flush()

    def eof_received(self) -> None:
        self.http.receive_eof()
        self.flush()

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self.flush()

    def flush(self) -> None:
        while not self.blocked and not self.transport.is_closing():
            chunk = self.http.take(WRITE_BYTES)
            self.transport.write(chunk.data)
            if chunk.end:
                asyncio.get_running_loop().call_soon(self.transport.close)
            if chunk.end or not chunk.data:
                return


async def listen() -> asyncio.Server:
    """Listen on a free port of the loopback."""
    return await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
