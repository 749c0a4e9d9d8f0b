"""A model server over HTTP whose answers come from a player of vectors, step by step.

Rules of this file: Ollama's API as far as a server of streams asks for it. A thread accepts and
reads requests; all that is said in an answer is said by the player's own thread.
"""

import json
import select
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress

_LIMIT = 5.0  # seconds


class ModelServer:
    """It listens from its first moment, unless it is not there."""

    def __init__(self, offered: Sequence[str], *, there: bool = True) -> None:
        """
        Args:
            offered: the models that it says it has.
            there: False: its port refuses connections.
        """
        self._offered = offered
        self._there = there
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[LiveModel] = []
        """Those for a stream, all that there were."""
        self._taken = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="model server", daemon=True)
        if there:
            self._listener.listen()
            self._thread.start()

    def close(self) -> None:
        if self._there:
            self._closing = True
            socket.create_connection(("127.0.0.1", self.port), _LIMIT).close()  # wakes the thread
            self._thread.join(_LIMIT)
        self._listener.close()
        while (model := self.take()) is not None:
            model.close()

    def take(self) -> "LiveModel | None":
        """Return the next request for a stream that was not taken yet; None: there is none."""
        if self._taken == len(self.requests):
            return None
        self._taken += 1
        return self.requests[self._taken - 1]

    def _run(self) -> None:
        while True:
            accepted, _ = self._listener.accept()
            if self._closing:
                accepted.close()
                return
            accepted.settimeout(_LIMIT)
            with suppress(OSError):  # it has gone again
                self._take(accepted)

    def _take(self, accepted: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += _read(accepted)
        head, _, body = data.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (field.partition(": ") for field in fields)
        }
        while len(body) < int(headers.get("content-length", "0")):
            body += _read(accepted)
        if first.split()[1] == "/api/chat":
            self.requests.append(LiveModel(accepted, headers, json.loads(body)))
        else:
            tags = {"models": [{"name": name} for name in self._offered]}
            accepted.sendall(_answer(200, json.dumps(tags).encode()))
            accepted.close()


class LiveModel:
    """One request for a stream, and its answer."""

    def __init__(
        self, accepted: socket.socket, headers: dict[str, str], body: dict[str, object]
    ) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = accepted
        self.headers = headers
        self.body = body
        self._begun = False

    @property
    def cancelled(self) -> bool:
        """True: the server closes the connection, or has closed it."""
        return self._ends(_LIMIT)

    @property
    def closed(self) -> bool:
        """True: the connection is over."""
        return self._socket.fileno() < 0 or self._ends(0)

    def _ends(self, limit: float) -> bool:
        if not select.select([self._socket], [], [], limit)[0]:
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except ConnectionError:
            return True

    def send(self, data: bytes) -> None:
        head = b"" if self._begun else _HEAD
        self._begun = True
        self._write(head + b"%x\r\n%b\r\n" % (len(data), data))

    def refuse(self, status: int, body: bytes) -> None:
        self._begun = True
        self._write(_answer(status, body))

    def finish(self) -> None:
        self._write(b"0\r\n\r\n" if self._begun else _answer(200, b""))

    def lose(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """End the connection. Who was told nothing yet is refused first, not to think this dead."""
        if not self._begun and not self.closed:
            self.refuse(500, b"")
        self._socket.close()

    def _write(self, data: bytes) -> None:
        with suppress(ConnectionError):  # the server may want no more
            self._socket.sendall(data)


_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _answer(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def _read(accepted: socket.socket) -> bytes:
    data = accepted.recv(65_536)
    if not data:
        raise ConnectionError
    return data
