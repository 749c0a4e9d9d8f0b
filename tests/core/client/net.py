"""A client of the core in a virtual world: the test is the server, byte for byte.

Rules of this file: nothing is answered by itself, but for `open_session` and `join`, which say the
usual handshakes. A link is one socket that the client dialled, in the order of its dials.
"""

import json
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from tokenwire.client import (
    Abort,
    Client,
    ClientConfig,
    ClientOutput,
    Dial,
    Event,
    Joined,
    WantWrite,
)
from tokenwire.http.websocket import accept_token
from tokenwire.testing.ids import SeededIds
from tokenwire.types import ConnId, Millis

_PULL_BYTES = 64 * 1024


class Asked(NamedTuple):
    """A request of the client's."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def kind(self) -> str:
        return f"{self.method} {self.query['transport']}"


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    """Return a server's frame."""
    size = len(payload)
    first = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        return first + bytes([size]) + payload
    if size < 65_536:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload


def take_masked(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Take all whole frames of a client off the front of `data`: opcodes and payloads."""
    taken: list[tuple[int, bytes]] = []
    while len(data) >= 2:
        assert data[1] & 0x80, "a client's frame must be masked"
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        if len(data) < at + 4 + size:
            break
        mask, payload = data[at : at + 4], data[at + 4 : at + 4 + size]
        taken.append((data[0] & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))))
        data = data[at + 4 + size :]
    return taken, data


def handshake(**changes: object) -> bytes:
    """Return an Engine.IO open packet."""
    fields = {"sid": "S", "upgrades": ["websocket"], "pingInterval": 25_000, "pingTimeout": 20_000,
              "maxPayload": 1_000_000, **changes}  # fmt: skip
    return b"0" + json.dumps(fields).encode()


class Link:
    """One socket, seen from the server."""

    def __init__(self, net: "Net", conn: ConnId) -> None:
        self.conn = conn
        self.sent = b""
        """What the client wrote, and was not taken yet."""
        self.room: int | None = None
        """How many bytes the socket takes; None: all."""
        self.opened = False
        self.ended = False
        self.aborted = False
        self._net = net

    def open(self) -> "Link":
        self.opened = True
        self._net.client.connected(self.conn, self._net.now)
        self._net.pump()
        return self

    def drop(self) -> None:
        """Lose the socket, or fail to open it."""
        self.ended = True
        self._net.client.connection_lost(self.conn, self._net.now)
        self._net.pump()

    def eof(self) -> None:
        self._net.client.receive_eof(self.conn, self._net.now)
        self._net.pump()

    def send(self, data: bytes) -> None:
        self._net.client.receive_data(self.conn, data, self._net.now)
        self._net.pump()

    def flush(self) -> None:
        while not (self.ended or self.aborted):
            size = _PULL_BYTES if self.room is None else min(self.room, _PULL_BYTES)
            if size == 0:
                return
            chunk = self._net.client.data_to_send(self.conn, size, self._net.now)
            self.sent += chunk.data
            if self.room is not None:
                self.room -= len(chunk.data)
            if chunk.end:
                self.drop()
            elif not chunk.data:
                return

    def close(self) -> None:
        """Answer the close frame that has come last: nothing is said after it."""
        assert not self.ended
        self.send(frame(b"\x03\xe8", 8))
        assert self.ended

    # -- HTTP --------------------------------------------------------------------------------------

    def asked(self) -> Asked:
        """Take the request that has come."""
        head, separator, rest = self.sent.partition(b"\r\n\r\n")
        assert separator, f"no request in {self.sent!r}"
        first, *lines = head.decode().split("\r\n")
        method, target, version = first.split(" ")
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        size = int(headers.get("content-length", 0))
        assert len(rest) >= size
        self.sent = rest[size:]
        path, _, query = target.partition("?")
        return Asked(method, path, dict(parse_qsl(query)), headers, rest[:size])

    def answer(self, body: bytes, status: int = 200, headers: str = "") -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.send(head.encode() + body)

    # -- WebSocket ---------------------------------------------------------------------------------

    def accept(self, more: bytes = b"") -> Asked:
        """Answer the WebSocket handshake that has come; `more` comes in the same bytes."""
        asked = self.asked()
        assert asked.headers["upgrade"] == "websocket"
        token = accept_token(asked.headers["sec-websocket-key"])
        self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + token.encode() + b"\r\n\r\n" + more
        )
        return asked

    def say(self, *packets: bytes | str) -> None:
        """Send each as a text message, all in one write."""
        texts = [text.encode() if isinstance(text, str) else text for text in packets]
        self.send(b"".join(map(frame, texts)))

    def frames(self) -> list[tuple[int, bytes]]:
        """Take all whole frames that have come."""
        taken, self.sent = take_masked(self.sent)
        return taken

    def texts(self) -> list[str]:
        """Take all whole frames that have come; they are texts."""
        taken = self.frames()
        assert all(opcode == 1 for opcode, _ in taken), taken
        return [payload.decode() for _, payload in taken]


class Net:
    """A Client and the sockets that it dialled."""

    def __init__(self, *, seed: int = 0, **settings: Any) -> None:
        self.now = Millis(1_000)
        self.client = Client(ClientConfig(host="test", **settings), ids=SeededIds(seed))
        self.links: list[Link] = []
        self.events: list[ClientOutput] = []
        """What the program was told and has not taken."""
        self._taken = 0

    def pump(self) -> None:
        while (output := self.client.poll()) is not None:
            match output:
                case Dial():
                    self.links.append(Link(self, output.conn))
                case WantWrite():
                    self._link(output.conn).flush()
                case Abort():
                    self._link(output.conn).aborted = True
                case _:
                    self.events.append(output)

    def _link(self, conn: ConnId) -> Link:
        return self.links[conn - 1]

    def dialled(self) -> Link:
        """Return the next link that the client dialled, not open yet."""
        self._taken += 1
        return self.links[self._taken - 1]

    def next(self) -> Link:
        """Return the next link that the client dialled, open."""
        return self.dialled().open()

    @property
    def quiet(self) -> bool:
        """True: every dial was taken by the test."""
        return self._taken == len(self.links)

    def transport(self) -> str | None:
        return self.client.transport

    def over(self) -> bool:
        return self.client.over

    def told(self) -> list[ClientOutput]:
        """Take what the program was told."""
        told, self.events = self.events, []
        return told

    def names(self) -> list[str]:
        """Take what the program was told, the kinds alone."""
        return [type(output).__name__ for output in self.told()]

    def advance(self, span: int) -> None:
        """Let time pass, with every deadline in it."""
        end = self.now + span
        while (deadline := self.client.next_timeout()) is not None and deadline.at <= end:
            self.now = Millis(max(self.now, deadline.at))
            self.client.handle_timeout(self.now)
            self.pump()
        self.now = Millis(end)

    # -- the program -------------------------------------------------------------------------------

    def join(self, namespace: str = "/", auth: dict[str, object] | None = None) -> None:
        self.client.join(namespace, self.now, auth)
        self.pump()

    def leave(self, namespace: str = "/") -> None:
        self.client.leave(namespace, self.now)
        self.pump()

    def close(self) -> None:
        self.client.close(self.now)
        self.pump()

    def emit(self, name: str | int, *args: object, namespace: str = "/", **more: Any) -> int | None:
        ack_id = self.client.emit(namespace, name, list(args), self.now, **more)
        self.pump()
        return ack_id

    def acknowledge(self, ack_id: int, *args: object, namespace: str = "/") -> None:
        self.client.acknowledge(namespace, ack_id, list(args), self.now)
        self.pump()


def websocket_net(**settings: Any) -> tuple[Net, Link]:
    """A client whose namespace `/` is joined over a WebSocket."""
    net = Net(**{"transports": ("websocket",), **settings})
    net.join()
    return net, rejoin_websocket(net)


def rejoin_websocket(net: Net, reply: str = '40{"sid":"s"}') -> Link:
    """Answer a client that connects over a WebSocket, all that is usual."""
    link = net.next()
    link.accept(frame(handshake(upgrades=[])))
    assert link.texts()[0].startswith("40")
    link.say(reply)
    assert isinstance(net.events[-1], Joined | Event)
    return link


class Polls(NamedTuple):
    """The two connections of a polling session."""

    get: Link
    post: Link


def polling_net(*, upgrades: tuple[str, ...] = (), **settings: Any) -> tuple[Net, Polls]:
    """A client whose namespace `/` is joined over polling; its GET hangs."""
    net = Net(**settings)
    net.join()
    get = net.next()
    assert get.asked().kind == "GET polling"
    get.answer(handshake(upgrades=list(upgrades)))
    assert get.asked().kind == "GET polling"
    post = net.next()
    assert post.asked().body == b"40"
    post.answer(b"ok")
    get.answer(b'40{"sid":"s"}')
    assert get.asked().kind == "GET polling"
    assert net.names() == ["Joined"]
    return net, Polls(get, post)
