"""The client and the server of this project, in memory: what one says the other understands.

Rules of this file: the server runs the fixture's program (`tokenwire.testing.worldnet`); bytes pass
whole, or cut into pieces of a size that the test chooses.
"""

from typing import Any

import pytest
from tokenwire.client import (
    Abort,
    Acknowledged,
    Client,
    ClientConfig,
    ClientOutput,
    Dial,
    Event,
    Joined,
    Left,
    Refused,
    WantWrite,
)
from tokenwire.testing import Wire
from tokenwire.testing.ids import SeededIds
from tokenwire.testing.vectors import ServerOptions
from tokenwire.testing.worldnet import WorldNet
from tokenwire.types import ConnId

TRANSPORTS: dict[str, tuple[str, ...]] = {
    "websocket": ("websocket",),
    "polling": ("polling",),
    "upgrade": ("polling", "websocket"),
}


_STEP = 50  # ms


class Pair:
    """A client, a server, and the sockets between them."""

    def __init__(self, transports: tuple[str, ...], *, piece: int = 65_536, **options: Any) -> None:
        self.net = WorldNet(ServerOptions(**options))
        config = ClientConfig(host="test", transports=transports)  # type: ignore[arg-type]
        self.client = Client(config, ids=SeededIds())
        self.events: list[ClientOutput] = []
        self._piece = piece
        self._wires: dict[ConnId, Wire] = {}

    @property
    def now(self) -> Any:
        return self.net.world.now

    def join(self, namespace: str = "/", auth: dict[str, object] | None = None) -> None:
        self.client.join(namespace, self.now, auth)
        self.run()

    def emit(self, name: str, *args: object, namespace: str = "/", want_ack: bool = False) -> None:
        self.client.emit(namespace, name, list(args), self.now, want_ack=want_ack)
        self.run()

    def advance(self, span: int) -> None:
        """Let time pass at both ends, a step at a time."""
        for _ in range(span // _STEP):
            self.net.wait(_STEP)
            self.run()
            self.client.handle_timeout(self.now)
            self.run()

    def cut(self) -> None:
        """Lose every socket."""
        for conn, wire in list(self._wires.items()):
            del self._wires[conn]
            wire.drop()
            self.client.connection_lost(conn, self.now)
        self.run()

    def run(self) -> None:
        """Carry bytes until nobody has any."""
        while self._poll() or self._carry():
            self.net.react()

    def _poll(self) -> bool:
        output = self.client.poll()
        match output:
            case None:
                return False
            case Dial():
                self._wires[output.conn] = self.net.world.connect()
                self.client.connected(output.conn, self.now)
            case WantWrite():
                self._write(output.conn)
            case Abort():
                self._wires.pop(output.conn).drop()
            case _:
                self.events.append(output)
        return True

    def _write(self, conn: ConnId) -> None:
        while conn in self._wires:
            chunk = self.client.data_to_send(conn, self._piece, self.now)
            if chunk.data:
                self._wires[conn].send(chunk.data)
            if chunk.end:
                self._wires.pop(conn).drop()
                self.client.connection_lost(conn, self.now)
            elif not chunk.data:
                return

    def _carry(self) -> bool:
        """Carry what every socket has: during an upgrade, polling always has something."""
        carried = False
        for conn, wire in list(self._wires.items()):
            data, wire.received = wire.received, b""
            for at in range(0, len(data), self._piece):
                self.client.receive_data(conn, data[at : at + self._piece], self.now)
            if not wire.open:
                self._wires.pop(conn, None)
                self.client.connection_lost(conn, self.now)
            carried = carried or bool(data) or not wire.open
        return carried

    def told(self) -> list[ClientOutput]:
        told, self.events = self.events, []
        return told


@pytest.fixture(params=list(TRANSPORTS))
def transports(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return TRANSPORTS[request.param]


@pytest.mark.parametrize("piece", [65_536, 1])
def test_a_conversation(transports: tuple[str, ...], piece: int) -> None:
    pair = Pair(transports, piece=piece)
    pair.join("/", {"token": "t"})
    assert pair.client.transport == transports[-1]
    joined, auth = pair.told()
    assert isinstance(joined, Joined)
    assert auth == Event("/", "auth", ({"token": "t"},), None)
    pair.emit("message", 1, "é", b"\x00\xff", {"deep": [b"1"]})
    assert pair.told() == [
        Event("/", "message-back", (1, "é", b"\x00\xff", {"deep": [b"1"]}), None)
    ]
    pair.emit("message-with-ack", b"2", want_ack=True)
    assert pair.told() == [Acknowledged("/", 0, (b"2",))]
    pair.emit("ask", "?")
    (asked,) = pair.told()
    assert asked == Event("/", "ask-back", ("?",), 0)
    pair.client.acknowledge("/", 0, ["!", b"3"], pair.now)
    pair.run()
    assert pair.told() == [Event("/", "asked", ("!", b"3"), None)]


def test_namespaces(transports: tuple[str, ...]) -> None:
    pair = Pair(transports)
    pair.join("/nowhere")
    assert pair.told() == [Refused("/nowhere", {"message": "Invalid namespace"})]
    assert pair.client.over
    pair.join("/custom")
    pair.join("/")
    pair.emit("leave", namespace="/custom")
    assert Left("/custom", "io server disconnect") in pair.told()
    pair.emit("message")
    assert pair.told() == [Event("/", "message-back", (), None)]


def test_a_quiet_session_lives_and_a_lost_one_comes_back(transports: tuple[str, ...]) -> None:
    pair = Pair(transports, ping_interval=300, ping_timeout=200)
    pair.join()
    pair.told()
    pair.advance(10_000)
    assert pair.told() == []
    pair.emit("message", "x" * 300_000)
    assert [type(output) for output in pair.told()] == [Event]
    pair.cut()
    pair.emit("message", "kept")
    pair.advance(2_000)
    kinds = [type(output).__name__ for output in pair.told()]
    assert kinds == ["Left", "Reconnecting", "Joined", "Event", "Event"]


def test_the_last_words_arrive(transports: tuple[str, ...]) -> None:
    pair = Pair(transports)
    pair.join()
    pair.told()
    pair.client.emit("/", "message", ["last"], pair.now)
    said: list[object] = []
    pair.net.world.on_program = said.append
    pair.client.close(pair.now)
    pair.run()
    assert [type(output).__name__ for output in said] == ["Event", "Disconnected"]
    assert pair.client.over
    assert pair.client.next_timeout() is None
