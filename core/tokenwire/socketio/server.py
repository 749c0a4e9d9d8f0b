"""The Socket.IO server: the namespaces there are, the sockets in them.

Rules of this file: namespaces are literal names (v5: `/custom?token=1` is another namespace).
"""

from tokenwire.config import Config
from tokenwire.engineio.engine import Engine
from tokenwire.engineio.session import EngineSession
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import Acknowledged, Connected, Disconnected, Event, Outputs
from tokenwire.socketio.client import Client, Namespace, Socket
from tokenwire.timers import Timer, Timers
from tokenwire.types import IdSource, Millis
from tokenwire.wire import ids
from tokenwire.wire.socketio import Limits

_ID_BYTES = 15


class SocketServer:
    """Opens a client for each Engine.IO session and knows every socket by its id."""

    def __init__(
        self, config: Config, outputs: Outputs, timers: Timers, id_source: IdSource
    ) -> None:
        self.config = config
        self.limits = Limits(
            config.max_attachments,
            config.json_depth,
            config.json_containers,
            lenient_namespace=config.ai_namespace,
        )
        self.engine = Engine(config, outputs, timers, id_source, self._open)
        self._ids = id_source
        self._timers = timers
        program = ProgramNamespace(outputs)
        self._namespaces: dict[str, Namespace] = dict.fromkeys(config.namespaces, program)
        self._clients: dict[str, Client] = {}
        self._sockets: dict[str, Socket] = {}

    def add_namespace(self, name: str, namespace: Namespace) -> None:
        self._namespaces[name] = namespace

    def socket(self, socket_id: str) -> Socket:
        """Return the socket with this id.

        Raises:
            LocalProtocolError: there is none (any more).
        """
        socket = self._sockets.get(socket_id)
        if socket is None:
            raise LocalProtocolError("no such socket: it has left its namespace")
        return socket

    def has_output(self) -> bool:
        """Return True if a client was not handed everything yet."""
        return any(client.has_output() for client in self._clients.values())

    def _open(self, session: EngineSession, now: Millis) -> Client:
        client = Client(session, self)
        self._clients[session.sid] = client
        self._timers.set(Timer.CONNECT, session.sid, now + self.config.connect_timeout)
        return client

    def connect_timed_out(self, sid: str, now: Millis) -> None:
        """No namespace was joined in time."""
        self.engine.close_session(self._clients[sid].session, "connect timeout", now)

    # -- what clients need (client.Hub) ------------------------------------------------------------

    def namespace(self, name: str) -> Namespace | None:
        return self._namespaces.get(name)

    def new_id(self) -> str:
        return ids.text(self._ids.random_bytes(_ID_BYTES))

    def joined(self, client: Client, socket: Socket) -> None:
        self._timers.clear(Timer.CONNECT, client.session.sid)
        self._sockets[socket.id] = socket

    def left(self, client: Client, socket: Socket) -> None:
        del self._sockets[socket.id]

    def closed(self, client: Client) -> None:
        self._timers.clear(Timer.CONNECT, client.session.sid)
        del self._clients[client.session.sid]

    def close_client(self, client: Client, now: Millis) -> None:
        self.engine.close_session(client.session, "forced close", now)

    def abort_client(self, client: Client, now: Millis) -> None:
        self.engine.abort_session(client.session, "slow consumer", now)


class ProgramNamespace:
    """A namespace of the program's own: what happens in it becomes outputs."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def connect(self, socket: Socket, auth: object, now: Millis) -> dict[str, object] | None:
        return None

    def connected(self, socket: Socket, auth: object, now: Millis) -> None:
        self._outputs.put(Connected(socket.id, socket.name, auth))

    def event(
        self, socket: Socket, name: str | int, args: list[object], ack_id: int | None, now: Millis
    ) -> None:
        self._outputs.put(Event(socket.id, socket.name, name, tuple(args), ack_id))

    def acknowledged(self, socket: Socket, ack_id: int, args: list[object]) -> None:
        self._outputs.put(Acknowledged(socket.id, ack_id, tuple(args)))

    def disconnected(self, socket: Socket, reason: str, now: Millis) -> None:
        self._outputs.put(Disconnected(socket.id, socket.name, reason))
