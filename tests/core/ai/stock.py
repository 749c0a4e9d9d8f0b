"""A stock client on connections that are cut: what socket.io-client does, and a program's screen.

Rules of this file: `Stock` has socket.io-client's rule for offsets, and its program a model's text
for each stream. A link counts the bytes that the server sends over all its connections, in their
order; what is behind a cut is never read, whatever the server thinks that it has sent. Of an HTTP
answer that is not whole its client has nothing.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec
from core.ai.client import Fields, Said, metadata
from tokenwire.testing import World
from tokenwire.testing.parse import take_answer, take_frames
from tokenwire.testing.world import masked_frame

_TARGET = "/socket.io/?EIO=4&transport="


class Link(Protocol):
    """An Engine.IO connection of a client."""

    def send(self, text: str) -> None:
        """Send a Socket.IO packet."""
        ...

    def read(self, limit: int | None = None) -> list[str]:
        """Read on, up to so many bytes in all; return the Socket.IO packets that are whole."""
        ...

    @property
    def came(self) -> int:
        """How many bytes the server has sent."""
        ...

    def drop(self) -> None:
        """Lose it. Harmless when the server has closed it."""
        ...


class WebSocketLink:
    """A WebSocket from the start."""

    def __init__(self, world: World) -> None:
        self._wire = world.connect()
        self._read = 0
        self._data = b""
        self._head = True
        self._wire.send(
            f"GET {_TARGET}websocket HTTP/1.1\r\nHost: x\r\n".encode()
            + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )

    def send(self, text: str) -> None:
        self._wire.send(masked_frame(b"4" + text.encode()))

    def read(self, limit: int | None = None) -> list[str]:
        data = self._wire.received[:limit]
        self._data += data[self._read :]
        self._read = len(data)
        if self._head:
            answer, rest = take_answer(self._data)
            if answer is None:
                return []
            self._head, self._data = False, rest
        frames, self._data = take_frames(self._data)
        return _messages([frame.payload for frame in frames if frame.opcode == 1])

    @property
    def came(self) -> int:
        return len(self._wire.received)

    def drop(self) -> None:
        if self._wire.open:
            self._wire.drop()


class PollingLink:
    """HTTP long-polling over two connections, one for GETs and one for POSTs, and no upgrade."""

    def __init__(self, world: World, *, pause: int = 0) -> None:
        """
        Args:
            world: where.
            pause: the next GET comes so many calls of `read` after the answer to the last one: so
                long no GET waits, and what the server has for the client waits for it.
        """
        self._wires = {"GET": world.connect(), "POST": world.connect()}
        self._unread = {"GET": b"", "POST": b""}
        self._arrived: deque[tuple[str, bytes]] = deque()
        self._read = 0
        self._sid = ""
        self._pause = pause
        self._idle = 0
        self._unsent: list[str] = []
        self._posting = False
        self._ask("GET")

    def _ask(self, method: str, body: str = "") -> None:
        sid = f"&sid={self._sid}" if self._sid else ""
        head = f"{method} {_TARGET}polling{sid} HTTP/1.1\r\nHost: x\r\n"
        if body:
            head += f"Content-Length: {len(body.encode())}\r\n"
        self._wires[method].send(f"{head}\r\n{body}".encode())
        self._collect()

    def _collect(self) -> None:
        """Put what has come into the order in which it came: the GET's answer before the POST's."""
        for method, wire in self._wires.items():
            if wire.received:
                self._arrived.append((method, wire.received))
                wire.received = b""

    def send(self, text: str) -> None:
        self._unsent.append("4" + text)
        self._post()

    def _post(self) -> None:
        if self._unsent and self._sid and not self._posting:
            body, self._unsent = "\x1e".join(self._unsent), []
            self._posting = True
            self._ask("POST", body)

    def read(self, limit: int | None = None) -> list[str]:
        messages: list[str] = []
        if self._idle:
            self._idle -= 1
            if not self._idle:
                self._ask("GET")
        self._collect()
        while self._arrived and (limit is None or self._read < limit):
            method, data = self._arrived.popleft()
            whole = len(data) if limit is None else limit - self._read
            if data[whole:]:
                self._arrived.appendleft((method, data[whole:]))
            data = data[:whole]
            self._read += len(data)
            self._unread[method] += data
            messages += self._answer(method)
        return messages

    def _answer(self, method: str) -> list[str]:
        answer, self._unread[method] = take_answer(self._unread[method])
        if answer is None:
            return []
        assert answer.status == 200, answer
        if method == "POST":
            self._posting = False
            self._post()
            return []
        packets = answer.body.split(b"\x1e")
        if not self._sid:
            self._sid = msgspec.json.decode(packets[0][1:], type=dict[str, object])["sid"]  # type: ignore[assignment]
            self._post()
        self._idle = self._pause
        if not self._idle:
            self._ask("GET")
        return _messages(packets)

    @property
    def came(self) -> int:
        self._collect()
        return self._read + sum(len(data) for _, data in self._arrived)

    def drop(self) -> None:
        for wire in self._wires.values():
            if wire.open:
                wire.drop()


def _messages(packets: list[bytes]) -> list[str]:
    """Return the Socket.IO packets among Engine.IO's."""
    return [packet[1:].decode() for packet in packets if packet[:1] == b"4"]


class Stock:
    """A stock client, and what its program shows."""

    def __init__(
        self,
        open_link: Callable[[], Link],
        *,
        recovery: bool = True,
        reconnect: str | None = None,
    ) -> None:
        """
        Args:
            open_link: opens a connection to the server.
            recovery: it takes part in connection state recovery.
            reconnect: what the program sends when it is back: "whole", "cursors", or nothing.
        """
        self.reconnect = reconnect
        self.said: list[Said] = []
        self.shown: dict[str, Shown] = {}
        """What the program shows of each stream."""
        self.recovered = False
        self.client_id: str | None = None
        self.connected = False
        self._open_link = open_link
        self._recovery = recovery
        self.pid: str | None = None
        self.offset: str | None = None
        self._buffer: list[list[object]] = []
        self._unsent: list[str] = []
        self.open()

    def open(self) -> None:
        """Connect, and join."""
        self.connected = False
        self.link = self._open_link()
        auth: Fields = {}
        if self.pid is not None:
            auth = {"pid": self.pid, "offset": self.offset}
            if self.offset is None:
                del auth["offset"]  # JavaScript leaves out what is undefined
        if not self._recovery:
            auth["recovery"] = False
        self.link.send("0/ai," + msgspec.json.encode(auth).decode())

    def emit(self, name: str, fields: Fields) -> None:
        """Send an event, now or when it is connected again."""
        text = "2/ai," + msgspec.json.encode([name, fields]).decode()
        if self.connected:
            self.link.send(text)
        else:
            self._unsent.append(text)

    def read(self, limit: int | None = None) -> int:
        """Read what has come, up to so many bytes of the connection. Return how many have come."""
        for text in self.link.read(limit):
            self._take(text)
        return self.link.came

    def _take(self, text: str) -> None:
        if text.startswith("0/ai,"):
            reply = msgspec.json.decode(text[5:], type=dict[str, str])
            pid = reply.get("pid")
            self.recovered = pid is not None and pid == self.pid
            self.pid = pid
            self.connected = True
            for args in self._buffer:
                self._emit(args)
            self._buffer.clear()
            for unsent in self._unsent:
                self.link.send(unsent)
            self._unsent.clear()
        elif text.startswith("2/ai,"):
            args = msgspec.json.decode(text[5:], type=list[object])
            if self.connected:
                self._emit(args)
            else:
                self._buffer.append(args)

    def _emit(self, args: list[object]) -> None:
        name, fields = args[:2]
        assert isinstance(name, str)
        assert isinstance(fields, dict)
        self._program(Said(name, fields))
        if self.pid is not None and isinstance(args[-1], str):
            self.offset = args[-1]

    def _program(self, event: Said) -> None:
        self.said.append(event)
        name = event.fields.get("streamId")
        if isinstance(name, str):
            self.shown.setdefault(name, Shown()).take(event)
        elif event.name == "ai:reconnect:success" and self.reconnect == "cursors":
            for resumed in msgspec.convert(event["streams"], list[dict[str, object]]):
                shown = self.shown.setdefault(str(resumed["streamId"]), Shown())
                shown.go_back(msgspec.convert(resumed["nextSeq"], int))
        elif event.name == "ai:connected":
            previous, self.client_id = self.client_id, str(event["clientId"])
            if previous is not None and self.reconnect is not None:
                self._take_over(previous)

    def _take_over(self, previous: str) -> None:
        fields: Fields = {"previousClientId": previous}
        if self.reconnect == "cursors":
            fields["streams"] = {name: shown.seq for name, shown in self.shown.items() if shown.seq}
        self.emit("ai:reconnect", fields)


class Shown:
    """One stream as its client has it."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, str]] = []
        self.ends: list[str] = []
        self.is_again = False
        """True: it was asked for again from a cursor, which says nothing of the end."""

    @property
    def seq(self) -> int:
        return self._pieces[-1][0] if self._pieces else 0

    @property
    def text(self) -> str:
        return "".join(text for _, text in self._pieces)

    def go_back(self, next_seq: int) -> None:
        """What follows begins with this token (AI-063): what came meanwhile comes again."""
        self.is_again = True
        if next_seq <= self.seq:
            self._pieces = [piece for piece in self._pieces if piece[0] < next_seq]
            self.ends.clear()

    def take(self, event: Said) -> None:
        match event.name:
            case "ai:stream:start":
                self._pieces.clear()
                self.ends.clear()
            case "ai:token":
                seq = msgspec.convert(event["seq"], int)
                tokens = metadata(event).get("tokens", 1)
                assert seq - self.seq == tokens, "a hole, or twice"
                assert not self.ends
                self._pieces.append((seq, str(event["data"])))
            case "ai:stream:complete" | "ai:done":
                if not self.is_again or event.name not in self.ends:
                    self.ends.append(event.name)
            case _:
                raise AssertionError(event)
