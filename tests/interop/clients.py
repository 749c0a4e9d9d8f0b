"""One face for the stock clients: socket.io-client under Node, python-socketio in this process.

Rules of this file: a scenario knows a `Client` and nothing of what is behind it. All that a client
receives is kept in order in `log`; `take` waits for what has not been taken yet. Nothing that is
sent or received is changed on its way; bytes go to Node and back as `{"$bytes": hexadecimal}`.
"""

import abc
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import socketio
from runtimes.loop_thread import LIMIT, LoopThread

HERE = Path(__file__).parent
NAMESPACE = "/ai"
KINDS = ("js-default", "js-websocket", "js-polling", "py")
"""The clients of the acceptance tests."""

_TRANSPORTS: dict[str, dict[str, object]] = {
    "js-default": {},  # the stock client's own default
    "js-websocket": {"transports": ["websocket"]},
    "js-polling": {"transports": ["polling"]},
}
Resume = Literal["previous", "cursor"]
"""How a client's program gets its streams back: by the id of its previous connection alone, as the
seed's snippet does, or with what it has of each stream, too (`resume.mjs`)."""

_JS_RECONNECTION = {"reconnectionDelay": 20, "reconnectionDelayMax": 50, "randomizationFactor": 0}
_PY_RECONNECTION = {"reconnection_delay": 0.02, "reconnection_delay_max": 0.05}


@dataclass(frozen=True)
class Received:
    """Something that happened at a client."""

    name: str
    """An event's name; with a `$` at its beginning it is none of the server's (see driver.mjs)."""
    args: tuple[Any, ...]

    @property
    def payload(self) -> Any:
        """The first argument."""
        assert self.args, f"{self.name} has no arguments"
        return self.args[0]


class Client(abc.ABC):
    """A client of a namespace: of `/ai` where nothing else is said."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.hello: dict[str, Any] = {}
        """The last `ai:connected` that was awaited."""
        self._log: list[Received] = []
        self._untaken: list[Received] = []
        self._changed = threading.Condition()
        self._calls = itertools.count(1)

    # -- what it receives --------------------------------------------------------------------------

    def received(self, name: str, args: tuple[Any, ...]) -> None:
        """Keep what has happened. Called in the client's own thread."""
        with self._changed:
            self._log.append(Received(name, args))
            self._untaken.append(self._log[-1])
            self._changed.notify_all()

    @property
    def log(self) -> list[Received]:
        """All that has happened so far."""
        with self._changed:
            return list(self._log)

    def take(self, name: str, *, limit: float = LIMIT, **fields: object) -> Any:
        """Wait for an event that was not taken before, and return its payload.

        Args:
            name: of the event.
            limit: seconds to wait at most.
            fields: what its payload must hold.
        """
        return self._take(name, lambda item: _holds(item, fields), limit).payload

    def take_all(self, name: str) -> list[Any]:
        """Wait for an event that was not taken before, and return its arguments."""
        return list(self._take(name, lambda item: True, LIMIT).args)

    def _take(self, name: str, fits: Callable[[Received], bool], limit: float) -> Received:
        def found() -> Received | None:
            return next((item for item in self._untaken if item.name == name and fits(item)), None)

        with self._changed:
            item = self._changed.wait_for(found, limit)
            assert item, f"no {name} in {[(item.name, item.args) for item in self._untaken]}"
            self._untaken.remove(item)
            return item

    def events(self, stream_id: str) -> list[Received]:
        """Return all events about one stream."""
        return [item for item in self.log if _holds(item, {"streamId": stream_id})]

    def text(self, stream_id: str) -> str:
        """Return the text that a user sees: emptied at each start, as the seed's page does."""
        text = ""
        for item in self.events(stream_id):
            if item.name == "ai:stream:start":
                text = ""
            elif item.name == "ai:token" and "thinking" not in item.payload["metadata"]:
                text += item.payload["data"]
        return text

    # -- what it sends -----------------------------------------------------------------------------

    @abc.abstractmethod
    def emit(self, event: str, *args: object) -> None:
        """Send an event."""

    @abc.abstractmethod
    def send_call(self, event: str, args: tuple[object, ...], call_id: int) -> None:
        """Send an event with an ack callback, which says `$ack`."""

    @abc.abstractmethod
    def write(self, packet: str) -> None:
        """Send a text as an Engine.IO message, whatever it is."""

    @abc.abstractmethod
    def disconnect(self) -> None:
        """Leave for good. Harmless when it has left."""

    def call_all(self, event: str, *args: object) -> list[Any]:
        """Send an event and return all that it is acknowledged with."""
        call_id = next(self._calls)
        self.send_call(event, args, call_id)
        item = self._take("$ack", lambda item: bool(item.args[0] == call_id), LIMIT)
        return list(item.args[1:])

    def call(self, event: str, *args: object) -> Any:
        """Send an event and return the one value that it is acknowledged with."""
        values = self.call_all(event, *args)
        assert len(values) == 1, f"{event} was acknowledged with {values}"
        return values[0]

    def stream(self, prompt: str, **fields: object) -> str:
        """Ask for a stream, direct if nothing else is said. Return its streamId."""
        answer = self.call("ai:stream", {"prompt": prompt, "useOrchestrator": False, **fields})
        assert answer["ok"] is True, answer
        return str(answer["streamId"])

    def wait_connected(self) -> None:
        """Wait until the server has said hello (again)."""
        self.hello = self.take("ai:connected")


def _holds(item: Received, fields: dict[str, object]) -> bool:
    payload = item.args[0] if item.args else None
    if not fields:
        return True
    return isinstance(payload, dict) and all(
        payload.get(name) == value for name, value in fields.items()
    )


# -- socket.io-client under Node -----------------------------------------------------------------


def require_packages() -> None:
    """Fail, with what to do, where the npm packages are not installed."""
    wanted = json.loads((HERE / "package.json").read_bytes())["dependencies"]
    missing = [name for name in wanted if not (HERE / "node_modules" / name).is_dir()]
    assert missing == [], "`make test` installs the npm packages of tests/interop"


class Node:
    """A process that runs driver.mjs, for all the JavaScript clients of a test session."""

    def __init__(self) -> None:
        require_packages()
        self.faults: list[str] = []
        self._clients: dict[str, JsClient] = {}
        self._numbers = itertools.count(1)
        self._quiet = threading.Event()
        self._process = subprocess.Popen(
            ("node", "driver.mjs"),
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogatepass",
        )
        self._reader = threading.Thread(target=self._read, name="node", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line, object_hook=_unpacked)
            client = self._clients.get(message["client"])
            if client is not None:
                client.received(message["name"], tuple(message["args"]))
            elif message["name"] == "$quiet":
                self._quiet.set()
            elif message["name"] == "$fault":
                self.faults.append(message["args"][0])

    def send(self, **command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command, default=_packed) + "\n")
        self._process.stdin.flush()

    def connect(
        self,
        kind: str,
        url: str,
        options: dict[str, object],
        library: str = "socket.io-client",
        resume: Resume | None = None,
    ) -> "JsClient":
        """Open a connection and join the namespace that the URL ends in."""
        client = self._client(kind)
        whole = {**_JS_RECONNECTION, **options}
        names = {"client": client.name, "library": library, "resume": resume}
        self.send(op="connect", **names, url=url, options=whole)
        return client

    def join(self, beside: "JsClient", namespace: str, options: dict[str, object]) -> "JsClient":
        """Join one more namespace, on the connection of another client."""
        client = self._client(beside.kind)
        names = {"client": client.name, "beside": beside.name}
        self.send(op="join", **names, namespace=namespace, options=options)
        return client

    def _client(self, kind: str) -> "JsClient":
        client = JsClient(kind, self, f"{kind} {next(self._numbers)}")
        self._clients[client.name] = client
        return client

    def wait_quiet(self) -> None:
        """Wait until no connection is open: a client that leaves has still something to say."""
        self._quiet.clear()
        self.send(op="quiet")
        assert self._quiet.wait(LIMIT), "a client has not let go of its connection"

    def forget(self, client: "JsClient") -> None:
        self._clients.pop(client.name, None)

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(LIMIT)
            finally:
                self._process.kill()
            self._reader.join(LIMIT)


def _packed(value: object) -> object:
    assert isinstance(value, bytes)
    return {"$bytes": value.hex()}


def _unpacked(value: dict[str, Any]) -> object:
    return bytes.fromhex(value["$bytes"]) if value.keys() == {"$bytes"} else value


class JsClient(Client):
    """A socket of socket.io-client."""

    def __init__(self, kind: str, node: Node, name: str) -> None:
        super().__init__(kind)
        self.name = name
        self._node = node
        self._left = False

    def emit(self, event: str, *args: object) -> None:
        self._node.send(op="emit", client=self.name, event=event, args=args)

    def send_call(self, event: str, args: tuple[object, ...], call_id: int) -> None:
        self._node.send(op="call", client=self.name, event=event, args=args, id=call_id)

    def write(self, packet: str) -> None:
        self._node.send(op="write", client=self.name, packet=packet)

    def disconnect(self) -> None:
        if not self._left:
            self._left = True
            self._node.send(op="disconnect", client=self.name)
            self._node.forget(self)


# -- python-socketio -----------------------------------------------------------------------------


class PyConnection:
    """A python-socketio AsyncClient, in a loop of its own, with a client for each namespace."""

    def __init__(
        self,
        url: str,
        namespaces: Sequence[str],
        options: dict[str, object],
        resume: Resume | None = None,
    ) -> None:
        self._thread = LoopThread("python-socketio")
        self._left = False
        self.sio: Any = None
        self._http: aiohttp.ClientSession | None = None
        self.clients = tuple(PyClient(self, namespace, resume) for namespace in namespaces)
        self._thread.run(self._connect(url, list(namespaces), options))

    async def _connect(self, url: str, namespaces: list[str], options: dict[str, object]) -> None:
        # Its own one is not closed where a connection is lost.
        self._http = aiohttp.ClientSession()
        self.sio = socketio.AsyncClient(
            http_session=self._http, randomization_factor=0, **_PY_RECONNECTION
        )
        for client in self.clients:
            client.listen(self.sio)
        # Who is refused hears of it: it is no reason to wait, or to raise.
        await self.sio.connect(url, namespaces=namespaces, wait=False, **options)

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        """Run what the AsyncClient is to do."""
        self._thread.run(work)

    def close(self) -> None:
        """Leave all namespaces for good. Harmless when done before."""
        if not self._left:
            self._left = True
            self._thread.run(self._end())
            self._thread.close()

    async def _end(self) -> None:
        assert self._http is not None
        await self.sio.shutdown()
        await self._http.close()


class Resumer:
    """What `resume.mjs` does, for a client in this process."""

    def __init__(self, way: Resume) -> None:
        self._way = way
        self._own: str | None = None
        self._cursors: dict[str, dict[str, object]] = {}

    def see(self, name: str, payload: Any) -> None:
        """Take notice of an event."""
        match name:
            case "ai:connected":
                self._own = self._own or payload["clientId"]
            case "ai:reconnect:success":
                self._own = payload["newClientId"]
            case "ai:stream:start":
                self._cursors[payload["streamId"]] = {"seq": 0, "epoch": payload["epoch"]}
            case "ai:token":
                self._cursors[payload["streamId"]]["seq"] = payload["seq"]
            case _:
                pass

    def question(self) -> dict[str, object] | None:
        """Return what to ask a new connection; None: this is the first."""
        if self._own is None:
            return None
        streams = {"streams": self._cursors} if self._way == "cursor" else {}
        return {"previousClientId": self._own, **streams}


class PyClient(Client):
    """A namespace of an AsyncClient, whose missing types stay in these two classes."""

    def __init__(self, connection: PyConnection, namespace: str, resume: Resume | None) -> None:
        super().__init__("py")
        self._connection = connection
        self._namespace = namespace
        self._resumer = Resumer(resume) if resume else None

    def listen(self, sio: Any) -> None:
        """Keep what comes in this namespace."""
        sio.on("connect", self._connected, namespace=self._namespace)
        sio.on("disconnect", self._disconnected, namespace=self._namespace)
        sio.on("connect_error", self._refused, namespace=self._namespace)
        sio.on("*", self._event, namespace=self._namespace)

    def _event(self, name: str, *args: object) -> tuple[object, ...]:
        self.received(name, args)
        if self._resumer is not None:
            self._resumer.see(name, args[0])
        return args  # what an event is acknowledged with, if the server asks for it

    async def _connected(self) -> None:
        sio = self._connection.sio
        if sio.transport() == "websocket" and sio.eio.upgrades:
            self.received("$upgrade", ("websocket",))  # it upgrades before it joins
        self.received("$connect", (sio.get_sid(self._namespace), sio.transport()))
        if self._resumer is not None and (question := self._resumer.question()):
            await sio.emit("ai:reconnect", question, namespace=self._namespace)

    def _disconnected(self, reason: str) -> None:
        self.received("$disconnect", (reason,))

    def _refused(self, data: object) -> None:
        message = data["message"] if isinstance(data, dict) else data
        self.received("$connect_error", (message,))

    def emit(self, event: str, *args: object) -> None:
        sio = self._connection.sio
        self._connection.run(sio.emit(event, args, namespace=self._namespace))

    def send_call(self, event: str, args: tuple[object, ...], call_id: int) -> None:
        def acknowledged(*values: object) -> None:
            self.received("$ack", (call_id, *values))

        sio = self._connection.sio
        self._connection.run(
            sio.emit(event, args, namespace=self._namespace, callback=acknowledged)
        )

    def write(self, packet: str) -> None:
        self._connection.run(self._connection.sio.eio.send(packet))

    def disconnect(self) -> None:
        self._connection.close()


@contextmanager
def running_node() -> Iterator[Node]:
    node = Node()
    try:
        yield node
    finally:
        node.close()


def connect(
    node: Node,
    kind: str,
    url: str,
    options: dict[str, object] | None = None,
    resume: Resume | None = None,
) -> Client:
    """Connect a client of a kind and wait until the server has said hello.

    Args:
        node: runs the JavaScript clients.
        kind: one of KINDS.
        url: without the namespace.
        options: for the client library.
        resume: how it gets its streams back after a drop; None: not by a program.
    """
    client: Client
    if kind == "py":
        (client,) = PyConnection(url, (NAMESPACE,), options or {}, resume).clients
    else:
        whole = _TRANSPORTS[kind] | (options or {})
        client = node.connect(kind, url + NAMESPACE, whole, resume=resume)
    client.wait_connected()
    return client


def settle(condition: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
    """Wait for something that nobody tells of."""
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.005)
