"""A Socket.IO client over one plain socket, which does no more than a test tells it.

Rules of this file: blocking, one thread; it reads only when a test asks, so that a slow reader is
one that is not asked. Every wait has a limit. It answers pings while it reads.
"""

import base64
import json
import os
import socket
import struct
import time
from types import TracebackType
from typing import Any, Self

from runtimes.loop_thread import LIMIT

_MASK = b"\x11\x22\x33\x44"
TEXT, BINARY, CLOSE = 1, 2, 8


class Closed(Exception):
    """The server has closed the connection."""


def dial(host: str, port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """Connect.

    Args:
        host: the server's address.
        port: its port.
        receive_buffer: a small one makes a slow reader felt soon.
    """
    dialled = socket.socket()
    if receive_buffer is not None:
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    dialled.settimeout(LIMIT)
    try:
        dialled.connect((host, port))
    except BaseException:
        dialled.close()
        raise
    return dialled


def reset(dialled: socket.socket) -> None:
    """Close with an RST."""
    dialled.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    dialled.close()


def read_answer(dialled: socket.socket) -> tuple[int, bytes]:
    """Read one HTTP response with a content-length. Return its status and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = dialled.recv(65_536)
        if not more:
            raise Closed
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (item.partition(": ") for item in lines)}
    while len(body) < int(fields.get("content-length", "0")):
        more = dialled.recv(65_536)
        if not more:
            raise Closed
        body += more
    return int(status.split()[1]), body


def http(host: str, port: int, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one request over a connection of its own. Return status and body."""
    with dial(host, port) as dialled:
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        dialled.sendall(head.encode() + body)
        return read_answer(dialled)


def ends(dialled: socket.socket) -> bool:
    """Read to the end. Return True if there was one within the limit."""
    try:
        while dialled.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


class WebSocket:
    """A WebSocket of an Engine.IO session. Frames are sent and read as they are."""

    def __init__(
        self, host: str, port: int, *, query: str = "", receive_buffer: int | None = None
    ) -> None:
        self.socket = dial(host, port, receive_buffer=receive_buffer)
        self._data = b""
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: {host}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n"
        )
        self.socket.sendall(head.encode())
        while b"\r\n\r\n" not in self._data:
            self._read_more()
        answer, _, self._data = self._data.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def _read_more(self) -> None:
        try:
            data = self.socket.recv(65_536)
        except ConnectionError:
            data = b""
        if not data:
            raise Closed
        self._data += data

    def send_frame(self, payload: bytes, opcode: int = TEXT) -> None:
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65_536:
            length = bytes([0x80 | 126]) + size.to_bytes(2, "big")
        else:
            length = bytes([0x80 | 127]) + size.to_bytes(8, "big")
        masked = bytes(byte ^ _MASK[index % 4] for index, byte in enumerate(payload))
        self.socket.sendall(bytes([0x80 | opcode]) + length + _MASK + masked)

    def read_frame(self) -> tuple[int, bytes]:
        """Return the next frame: its opcode and its payload.

        Raises:
            Closed: the connection is over.
            TimeoutError: nothing came within the limit.
        """
        while True:
            if len(self._data) >= 2:
                size, at = self._data[1] & 0x7F, 2
                if size >= 126:
                    width = 2 if size == 126 else 8
                    size, at = int.from_bytes(self._data[2 : 2 + width], "big"), 2 + width
                if len(self._data) >= at + size:
                    opcode, payload = self._data[0] & 0x0F, self._data[at : at + size]
                    self._data = self._data[at + size :]
                    return opcode, payload
            self._read_more()

    def send_text(self, text: str) -> None:
        self.send_frame(text.encode())

    def read_text(self) -> str:
        """Return the next text message; pings are answered.

        Raises:
            Closed: the connection is over, or a close frame came.
        """
        while True:
            opcode, payload = self.read_frame()
            if opcode == CLOSE:
                raise Closed(int.from_bytes(payload[:2], "big"))
            text = payload.decode()
            if text != "2":
                return text
            self.send_text("3")


class RawClient(WebSocket):
    """A client that has joined `/ai`."""

    def __init__(self, host: str, port: int, *, receive_buffer: int | None = None) -> None:
        super().__init__(host, port, receive_buffer=receive_buffer)
        self.log: list[tuple[str, dict[str, Any]]] = []
        """Every event that was read."""
        assert self.read_text().startswith("0{")
        self.send_text("40/ai,")
        assert self.read_text().startswith('40/ai,{"sid":')
        self.client_id = str(self.expect("ai:connected")["clientId"])

    def emit(self, name: str, payload: dict[str, Any]) -> None:
        self.send_text(f"42/ai,{json.dumps([name, payload])}")

    def stream(self, prompt: str, **fields: object) -> None:
        """Ask for a stream, under the prompt as its streamId unless there is another."""
        payload = {"prompt": prompt, "streamId": "s", "useOrchestrator": False, **fields}
        self.emit("ai:stream", payload)

    def read_event(self) -> tuple[str, dict[str, Any]]:
        """Return the next event of `/ai`."""
        text = self.read_text()
        assert text.startswith("42/ai,["), text
        name, payload, *_ = json.loads(text.removeprefix("42/ai,"))  # behind it, an offset
        self.log.append((name, payload))
        return name, payload

    def expect(self, name: str) -> dict[str, Any]:
        """Read until an event of this name, and return its payload."""
        until = time.monotonic() + LIMIT
        while time.monotonic() < until:
            found, payload = self.read_event()
            if found == name:
                return payload
        raise TimeoutError(name)

    def read_stream(self, name: str = "s") -> str:
        """Read the rest of a stream to its `ai:done`. Return the text of its tokens."""
        parts: list[str] = []
        while True:
            event, payload = self.read_event()
            if payload.get("streamId") != name:
                continue
            match event:
                case "ai:token":
                    parts.append(payload["data"])
                case "ai:done":
                    return "".join(parts)
                case "ai:stream:error" | "ai:stream:cancelled" | "ai:error":
                    raise AssertionError((event, payload))
                case _:
                    pass

    def reset(self) -> None:
        """Lose the connection."""
        reset(self.socket)
