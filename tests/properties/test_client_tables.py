"""Every state of the client's side, and in it every input that there is.

Rules of this file: those of `test_tables.py`.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator

import pytest
from properties.attack import reached
from properties.test_tables import MODULES, enums
from tokenwire.client import Client, ClientConfig, Dial
from tokenwire.client.engine import EngineClient, Role, State
from tokenwire.errors import LocalProtocolError
from tokenwire.http.client import ClientConnection, Phase
from tokenwire.http.websocket import accept_token
from tokenwire.testing import SeededIds
from tokenwire.types import ConnId, Millis, Request

NOW = Millis(1_000)


def answer(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d \r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def switch(key: str) -> bytes:
    return (
        "HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_token(key)}\r\n\r\n"
    ).encode()


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    return bytes([(0x80 if fin else 0) | opcode, len(payload)]) + payload


OPEN = (
    b'0{"sid":"s","upgrades":["websocket"],"pingInterval":300,"pingTimeout":200,"maxPayload":999}'
)
PACKETS = (
    *(
        b"0",
        b"0{}",
        OPEN,
        b"1",
        b"2",
        b"3",
        b"3probe",
        b"4",
        b"5",
        b"6",
        b"9",
        b"bAAEC",
        b"",
        b"40",
    ),
    *(
        b'40{"sid":"x"}',
        b'44{"message":"no"}',
        b"41",
        b'42["e",1]',
        b'421["e"]',
        b"430[]",
        b"431[]",
    ),
    *(b'451-["e",{"_placeholder":true,"num":0}]', b"42[", b'40/x,{"sid":"y"}'),
)
BYTES = (
    *(b"", b"\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 100 \r\n\r\n", answer(b"no", 400)),
    *(answer(b"ok"), answer(b"", 204), answer(b"x" * 5_000), switch("other")),
    *map(answer, PACKETS),
    *(frame(packet) for packet in PACKETS if len(packet) < 126),
    *(frame(b"x", opcode) for opcode in range(16)),
    *(frame(b"", opcode, fin=False) for opcode in (0, 1, 2, 8)),
)


# -- one connection --------------------------------------------------------------------------------


def idle() -> ClientConnection:
    return ClientConnection("x", max_bytes=1_000, max_fragments=3, ids=SeededIds())


def waiting() -> ClientConnection:
    connection = idle()
    connection.send_request(Request("POST", "/", body=b"x"))
    return connection


def switching() -> ClientConnection:
    connection = idle()
    connection.send_upgrade(Request("GET", "/"))
    return connection


def is_open() -> ClientConnection:
    connection = switching()
    connection.receive_data(switch(key_in(connection.take(10_000).data)))
    return connection


def key_in(request: bytes) -> str:
    """Return the key of a WebSocket's handshake."""
    return request.partition(b"sec-websocket-key: ")[2].partition(b"\r")[0].decode()


def leaving() -> ClientConnection:
    connection = is_open()
    connection.leave()
    return connection


def over() -> ClientConnection:
    connection = is_open()
    connection.close()
    return connection


PHASES: dict[Phase, Callable[[], ClientConnection]] = {
    Phase.IDLE: idle,
    Phase.WAITING: waiting,
    Phase.SWITCHING: switching,
    Phase.OPEN: is_open,
    Phase.LEAVING: leaving,
    Phase.OVER: over,
}
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "data": BYTES,
    "request": (Request("GET", "/"), Request("POST", "/x", body=b"body")),
    "messages": ([], [b"text", b""]),
    "max_bytes": (1, 10_000),
}


def public(kind: type) -> dict[str, Callable[..., object]]:
    return {
        name: method
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("phase", Phase)
def test_a_connection_takes_every_input_in_every_phase(phase: Phase) -> None:
    assert PHASES[phase]().phase is phase
    for name, method in public(ClientConnection).items():
        arguments = list(inspect.signature(method).parameters)[1:]
        for values in itertools.product(*(ARGUMENTS[argument] for argument in arguments)):
            connection = PHASES[phase]()
            try:
                method(connection, *values)
            except LocalProtocolError:  # the user's own fault
                assert name.startswith("send_") or name == "leave"
                assert connection.phase is phase
            connection.receive_eof()
            assert connection.phase is Phase.OVER
            connection.take(10_000)
            assert not connection.has_output


# -- a client --------------------------------------------------------------------------------------


class Scene:
    """A client, and the connections that it has asked for."""

    def __init__(self, *transports: str) -> None:
        settings = ClientConfig(host="x", max_message=4_000, reconnect_attempts=1)
        self.client = Client(settings, ids=SeededIds())
        self.now = NOW
        self.conns: list[ConnId] = []

    def pump(self) -> None:
        while (output := self.client.poll()) is not None:
            if isinstance(output, Dial):
                self.conns.append(output.conn)

    def dialled(self, *answers: bytes) -> ConnId:
        """Open the latest connection; the server answers."""
        self.pump()
        conn = self.conns[-1]
        self.client.connected(conn, self.now)
        self.answered(conn, *answers)
        return conn

    def answered(self, conn: ConnId, *answers: bytes) -> None:
        for data in answers:
            sent = self.client.data_to_send(conn, 10_000, self.now).data
            self.client.receive_data(conn, data or switch(key_in(sent)), self.now)
        self.pump()


def closed(scene: Scene) -> None:
    scene.pump()


def opening(scene: Scene) -> None:
    scene.client.join("/", scene.now)
    scene.pump()


def probing(scene: Scene) -> None:
    opening(scene)
    scene.dialled(answer(OPEN))


def polling(scene: Scene) -> None:
    probing(scene)
    scene.client.connection_lost(scene.conns[-1], scene.now)  # the WebSocket
    scene.pump()


def pausing(scene: Scene) -> None:
    probing(scene)
    scene.client.connected(scene.conns[-1], scene.now)
    scene.answered(scene.conns[-1], b"", frame(b"3probe"))


def websocket(scene: Scene) -> None:
    """Connections so far: a GET's, a POST's, the WebSocket's."""
    pausing(scene)
    get, post, _ = scene.conns
    scene.client.connected(post, scene.now)
    scene.answered(get, answer(b"6"))
    scene.answered(post, answer(b"ok"))


def closing(scene: Scene) -> None:
    polling(scene)
    scene.client.close(scene.now)
    scene.pump()


WAYS: tuple[tuple[State, Callable[[Scene], None]], ...] = (
    (State.CLOSED, closed),
    (State.OPENING, opening),
    (State.OPEN, polling),
    (State.OPEN, websocket),
    (State.PROBING, probing),
    (State.PAUSING, pausing),
    (State.CLOSING, closing),
)
SAMPLES: dict[str, Callable[[Scene], tuple[object, ...]]] = {
    "now": lambda scene: (scene.now,),
    "conn": lambda scene: (*scene.conns, ConnId(99)),
    "data": lambda scene: BYTES,
    "max_bytes": lambda scene: (1, 10_000),
    "namespace": lambda scene: ("/", "/x"),
    "name": lambda scene: ("e", 1),
    "args": lambda scene: ([], [b"x"], [object()]),
    "ack_id": lambda scene: (0,),
}


SESSION_DOOR = ("opened", "receive", "closed")
"""What the session below says to the client."""


def calls(scene: Scene) -> Iterator[tuple[str, tuple[object, ...]]]:
    for name, method in public(Client).items():
        if name in SESSION_DOOR:
            continue
        _, *arguments = inspect.signature(method).parameters.values()
        needed = [item.name for item in arguments if item.default is item.empty]
        for values in itertools.product(*(SAMPLES[item](scene) for item in needed)):
            yield name, values


def test_there_is_a_way_to_each_state() -> None:
    known = [*Phase, *State, *Role]
    found = [
        state
        for module in MODULES
        if module.__name__.startswith(("tokenwire.client", "tokenwire.http.client"))
        for name in ("State", "Phase", "Role")
        for kind in enums(module, name)
        for state in kind
    ]
    assert set(found) == set(known)
    assert set(PHASES) == set(Phase)
    assert {state for state, _ in WAYS} == set(State)


@pytest.mark.parametrize(("state", "come_to"), WAYS)
def test_a_client_takes_every_input_in_every_state(
    state: State, come_to: Callable[[Scene], None]
) -> None:
    scene = Scene()
    come_to(scene)
    assert [item.state for item in reached(scene.client) if isinstance(item, EngineClient)] == [
        state
    ]
    for name, values in list(calls(scene)):
        scene = Scene()
        come_to(scene)
        try:
            public(Client)[name](scene.client, *values)
        except LocalProtocolError:  # the program's own fault
            assert name in ("connected", "join", "leave", "emit", "acknowledge")
        except Exception as error:
            raise AssertionError(f"{state.value}: {name}{values}") from error
        run_out(scene)


def run_out(scene: Scene) -> None:
    """Lose all connections, let all timers come, and dial nothing any more."""
    for _ in range(20):
        scene.pump()
        for conn in scene.conns:
            scene.client.connection_lost(conn, scene.now)
        scene.conns.clear()
        deadline = scene.client.next_timeout()
        if deadline is None:
            break
        scene.now = max(scene.now, deadline.at)
        scene.client.handle_timeout(scene.now)
    assert scene.client.next_timeout() is None
    assert scene.client.over
