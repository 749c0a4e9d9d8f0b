"""The matrix: each stock library, by each transport, in each thing that its users do.

Rules of this file: a test is a row, and each of its cells is played by one library over one
transport; a cell compares what came, not only that it came. All cells share a server, which runs
the fixture's program (`spec/README.md`), and passes a `relay` on to the socket that it names.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

import pytest
import tokenwire_asyncio
from interop.clients import HERE, Client, JsClient, Node, PyConnection
from interop.link import Link, running_link
from runtimes.server_thread import LIMIT, Control, running_server
from tokenwire import Config, LocalProtocolError
from tokenwire.outputs import Event, ProgramEvent
from tokenwire.testing.vectors import ServerOptions
from tokenwire.testing.worldnet import config, fixture

PYTHON = "python-socketio"
NEWEST = "socket.io-client"
JAVASCRIPT = {
    NEWEST: "4.8.4",
    "socket.io-client-4.0": "4.0.0",
    # The oldest that speaks Engine.IO v4 and Socket.IO v5.
    "socket.io-client-3": "3.0.0",
}
"""Package -> version."""
TRANSPORTS: dict[str, dict[str, object]] = {
    "polling": {"transports": ["polling"]},
    "websocket": {"transports": ["websocket"]},
    "upgrade": {},  # every library's own default: polling, then WebSocket
}

LIMIT_BYTES = 1_000_000  # what the server announces as maxPayload
WINDOW = 32  # rounds of a burst that are on their way at a time


@contextmanager
def running(settings: Config) -> Iterator[Control]:
    """A server with the program."""

    def handle(output: ProgramEvent) -> None:
        # What it answers may have gone meanwhile.
        with suppress(LocalProtocolError):
            match output:
                case Event(name="relay", args=(str(socket), *args)):
                    control.core.emit(socket, "relayed", args, tokenwire_asyncio.now())
                case _:
                    fixture(control.core, output, tokenwire_asyncio.now())

    with running_server("http://localhost", settings, handle=handle) as control:
        yield control


def server_options(*, ping_interval: int) -> ServerOptions:
    return ServerOptions(
        ping_interval=ping_interval,
        ping_timeout=20_000,
        connect_timeout=45_000,
        upgrade_timeout=10_000,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Control]:
    """The server of all cells. It pings too seldom to disturb any."""
    with running(config(server_options(ping_interval=30_000))) as control:
        yield control


@pytest.fixture(scope="module")
def brisk_server() -> Iterator[Control]:
    """A server that pings all the time."""
    with running(config(server_options(ping_interval=300))) as control:
        yield control


class Cell:
    """What a cell is played with."""

    def __init__(
        self, library: str, transport: str, node: Node, server: Control, stack: ExitStack
    ) -> None:
        self.library = library
        self.transport = transport
        self.server = server
        self._node = node
        self._stack = stack

    def open(
        self, *namespaces: str, port: int | None = None, auth: object = None
    ) -> Sequence[Client]:
        """Open one connection and ask for namespaces; return a client for each."""
        url = f"http://localhost:{port or self.server.port}"
        own: dict[str, object] = {} if auth is None else {"auth": auth}
        options = TRANSPORTS[self.transport] | own
        clients: Sequence[Client]
        if self.library == PYTHON:
            clients = PyConnection(url, namespaces, options).clients
        else:
            clients = self._open_js(url, namespaces, options, own)
        for client in clients:
            self._stack.callback(client.disconnect)
        return clients

    def _open_js(
        self,
        url: str,
        namespaces: Sequence[str],
        options: dict[str, object],
        own: dict[str, object],
    ) -> list[JsClient]:
        name = f"{self.library} {self.transport}"
        first = self._node.connect(name, url + namespaces[0], options, self.library)
        return [first, *(self._node.join(first, other, own) for other in namespaces[1:])]

    def joined(self, client: Client) -> str:
        """Wait until a client has its namespace, and the cell's transport. Return its socket id."""
        socket_id, transport, *_ = client.take_all("$connect")
        if self.transport == "upgrade":
            assert client.take("$upgrade") == "websocket"
        else:
            assert transport == self.transport
        assert isinstance(socket_id, str)
        return socket_id

    def connect(self, *, port: int | None = None) -> Client:
        """A client of `/` that has it, and has upgraded if it does."""
        (client,) = self.open("/", port=port)
        self.joined(client)
        return client

    def other(self) -> Client:
        """Somebody else, who has a WebSocket."""
        url = f"http://localhost:{self.server.port}"
        client = self._node.connect("other", url, TRANSPORTS["websocket"])
        self._stack.callback(client.disconnect)
        return client

    def link(self) -> Link:
        """A link to the server that can be cut."""
        return self._stack.enter_context(running_link(self.server.host, self.server.port))


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=[*JAVASCRIPT, PYTHON])
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def cell(library: str, transport: str, node: Node, server: Control) -> Iterator[Cell]:
    with ExitStack() as stack:
        stack.callback(node.wait_quiet)
        yield Cell(library, transport, node, server, stack)
    assert node.faults == []


def echo(client: Client, *args: object) -> None:
    """Send a message; the same comes back."""
    client.emit("message", *args)
    assert client.take_all("message-back") == list(args)


def lives(client: Client) -> None:
    """It still gets answers, and was never cut off."""
    echo(client, "still here")
    assert not [item for item in client.log if item.name == "$disconnect"]


# -- what is sent --------------------------------------------------------------------------------


def test_text(cell: Cell) -> None:
    client = cell.connect()
    echo(client)
    echo(client, "")
    echo(client, "Grüße 👩\u200d💻", '\x1e \u2028 \0 \\ "', "451-")
    echo(client, 0, -1.5, 2**53, True, False, None, [], {}, [[None]], {"a": {"b": ["c"]}})
    echo(client, {"_placeholder": True, "num": 0})
    echo(client, "é" * 70_000)


def test_binary(cell: Cell) -> None:
    client = cell.connect()
    echo(client, bytes(range(256)))
    echo(client, b"")
    echo(client, b"4", "between", b"\x1e", {"deep": [b"\0\1", {"deeper": b"\xff"}]})
    echo(client, *(bytes([number]) * number for number in range(10)))
    echo(client, b"\x81\x7e" * 70_000)
    echo(client, "text behind it")


def test_acknowledgements(cell: Cell) -> None:
    client = cell.connect()
    for args in ([], [None], [1, "2", {"3": [True]}], [b"\1\2", {"in": [b"\3"]}]):
        assert client.call_all("message-with-ack", *args) == args
        client.emit("ask", *args)
        assert client.take_all("ask-back") == args  # which the client acknowledges with its own
        assert client.take_all("asked") == args


# -- who it is sent to ---------------------------------------------------------------------------


def test_namespaces(cell: Cell) -> None:
    main, custom, unknown = cell.open("/", "/custom", "/nowhere")
    assert unknown.take("$connect_error") == "Invalid namespace"
    assert cell.joined(main) != custom.take_all("$connect")[0]
    main.emit("message", "to main")
    custom.emit("message", "to custom")
    assert custom.take_all("message-back") == ["to custom"]
    assert main.take_all("message-back") == ["to main"]
    assert custom.call_all("message-with-ack", b"custom") == [b"custom"]
    custom.emit("leave")
    assert custom.take("$disconnect") in ("io server disconnect", "server disconnect")
    lives(main)
    assert {item.name for item in unknown.log} <= {"$connect_error", "$upgrade"}


def test_auth(cell: Cell) -> None:
    auth = {"token": "Grüße 👩\u200d💻", "nested": {"list": [1, None, True]}}
    for client in cell.open("/", "/custom", auth=auth):
        assert client.take_all("auth") == [auth]
    (client,) = cell.open("/")
    assert client.take_all("auth") == [{}]


# -- the transport -------------------------------------------------------------------------------


def test_reconnect(cell: Cell) -> None:
    link = cell.link()
    (client,) = cell.open("/", port=link.port, auth={"token": "again"})
    before = cell.joined(client)
    assert client.take("auth") == {"token": "again"}
    echo(client, "before")
    link.cut()
    assert client.take("$disconnect") in ("transport close", "transport error")
    assert link.refused.wait(LIMIT)  # it has tried once, in vain
    # python-socketio keeps nothing for later: to emit is an error of its user's.
    meanwhile = [] if cell.library == PYTHON else list(range(20))
    for number in meanwhile:
        client.emit("message", number, bytes([number]))
    link.mend()
    assert cell.joined(client) != before
    assert client.take("auth") == {"token": "again"}
    for number in meanwhile:
        assert client.take_all("message-back") == [number, bytes([number])]
    echo(client, "after")


class Numbered(NamedTuple):
    """A message of a burst. Some are binary: nothing may come between their parts."""

    number: int
    content: str | bytes


def numbered(number: int) -> Numbered:
    return Numbered(number, f"text {number}" if number % 3 else f"bytes {number}".encode())


class Burst:
    """Numbered messages, both ways: in each round one there and back, and one from somebody else.

    A window of rounds is always on its way. What somebody else sends comes also when the client
    itself sends nothing because it changes its transport.
    """

    def __init__(self, client: Client, other: Client, socket_id: str, window: int) -> None:
        self._client = client
        self._other = other
        self._socket_id = socket_id
        self._window = window
        self.sent = 0
        self._back = 0

    def send(self, rounds: int) -> None:
        """Send some more."""
        for _ in range(rounds):
            self._client.emit("message", *numbered(self.sent))
            self._other.emit("relay", self._socket_id, *numbered(self.sent))
            self.sent += 1
            while self.sent - self._back > self._window:
                self._take()

    def finish(self) -> None:
        """Wait for all that has not come."""
        while self._back < self.sent:
            self._take()

    def wait_relayed(self) -> None:
        """Wait until the server has all that somebody else has sent."""
        assert self._other.call("message-with-ack", self.sent) == self.sent

    def check(self) -> None:
        """Check that nothing has come twice, and that the connection was one."""
        names = [item.name for item in self._client.log]
        assert names.count("message-back") == names.count("relayed") == self.sent
        assert names.count("$connect") == 1

    def _take(self) -> None:
        for name in ("message-back", "relayed"):
            assert self._client.take_all(name) == list(numbered(self._back))
        self._back += 1


def burst_of(cell: Cell, client: Client, socket_id: str) -> Burst:
    return Burst(client, cell.other(), socket_id, WINDOW)


def test_burst(cell: Cell) -> None:
    (client,) = cell.open("/")
    burst = burst_of(cell, client, client.take("$connect"))  # it upgrades meanwhile, or has
    burst.send(3 * WINDOW)
    burst.finish()
    if cell.transport == "upgrade":
        assert client.take("$upgrade") == "websocket"
    burst.send(3 * WINDOW)
    burst.finish()
    burst.check()


# python-socketio joins only when it has upgraded: it never has anything on its way.
@pytest.mark.parametrize("library", JAVASCRIPT, indirect=True)
@pytest.mark.parametrize("transport", ["upgrade"], indirect=True)
def test_burst_through_an_upgrade(cell: Cell) -> None:
    link = cell.link()
    link.hold_websockets(after=0)
    (client,) = cell.open("/", port=link.port)
    socket_id, transport, *_ = client.take_all("$connect")
    assert transport == "polling"
    burst = burst_of(cell, client, socket_id)
    burst.send(3 * WINDOW)
    burst.finish()
    link.hold_websockets(after=2)  # the handshake and the probe
    burst.send(WINDOW // 4)
    assert client.take("$upgrade") == "websocket"  # it has said so; the server does not know yet
    burst.send(WINDOW // 4)
    burst.wait_relayed()  # what has no poll to go by
    link.pass_websockets()
    burst.send(3 * WINDOW)
    burst.finish()
    burst.check()


# -- the limit -----------------------------------------------------------------------------------


def text_of(size: int) -> str:
    """Return a text of which the event's packet has this size, in bytes."""
    return "x" * (size - len('42["message",""]'))


def test_exactly_the_limit(cell: Cell) -> None:
    client = cell.connect()
    echo(client, text_of(LIMIT_BYTES))
    if cell.transport != "polling":  # where attachments are longer than they are, in base64
        echo(client, b"\xa5" * LIMIT_BYTES)
    lives(client)


def test_one_byte_over_the_limit(cell: Cell, brisk_server: Control) -> None:
    # python-socketio hears of a refused POST when its poll is answered: at the next ping.
    client, other = (cell.connect(port=brisk_server.port) for _ in range(2))
    client.emit("message", text_of(LIMIT_BYTES + 1))
    polls = cell.transport == "polling"
    reason = "transport error" if polls or cell.library == PYTHON else "transport close"
    # 413 Content Too Large, or RFC 6455 7.4.1: message too big. Older ones do not tell.
    why = [413 if polls else 1009] if cell.library == NEWEST else []
    assert client.take_all("$disconnect") == [reason, *why]
    cell.joined(client)
    echo(client, "back again")
    lives(other)
    lives(cell.connect(port=brisk_server.port))


# -- the libraries -------------------------------------------------------------------------------


@pytest.mark.parametrize("package", JAVASCRIPT)
def test_the_versions_are_those_of_the_matrix(package: str) -> None:
    installed = json.loads((HERE / "node_modules" / package / "package.json").read_bytes())
    assert (installed["name"], installed["version"]) == (NEWEST, JAVASCRIPT[package])
