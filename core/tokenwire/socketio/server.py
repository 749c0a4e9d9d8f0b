"""The Socket.IO server: the namespaces there are, the sockets in them, what the program says.

Rules of this file: namespaces are literal names (v5: `/custom?token=1` is another namespace), or
match a pattern of the program's as a whole. A socket that may come back stays known by its id and
in its rooms while it is away. What the program does to one that has gone for good raises.
"""

import re
from collections.abc import Iterable

import msgspec

from tokenwire.config import Config
from tokenwire.engineio.engine import Engine
from tokenwire.engineio.session import EngineSession
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import AckFailed, Notice, Outputs
from tokenwire.socketio.binary import Body
from tokenwire.socketio.client import Client, Recovered
from tokenwire.socketio.program import ProgramNamespace
from tokenwire.socketio.recovery import Journal, new_pid, pid_key
from tokenwire.socketio.rooms import Rooms
from tokenwire.socketio.socket import Namespace, Socket
from tokenwire.timers import Timer, Timers
from tokenwire.types import IdSource, Millis
from tokenwire.wire import ids
from tokenwire.wire.socketio import Limits

_ID_BYTES = 15
TIMERS = (Timer.CONNECT, Timer.JOIN, Timer.ACK, Timer.RECOVERY)


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
        self._outputs = outputs
        self._timers = timers
        self._program = ProgramNamespace(config, outputs, timers)
        self._namespaces: dict[str, Namespace] = dict.fromkeys(config.namespaces, self._program)
        self._patterns = [re.compile(pattern) for pattern in config.namespace_patterns]
        self._clients: dict[str, Client] = {}
        self._joining: dict[str, tuple[Client, str]] = {}
        """Sockets-to-be by their ids: the client, the namespace."""
        self._sockets: dict[str, Socket] = {}
        self._members: dict[str, dict[Socket, None]] = {}
        """The sockets of each namespace."""
        self._rooms = Rooms()
        self._away: dict[Socket, None] = {}
        self._by_pid: dict[bytes, Socket] = {}

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

    def handle_timer(self, timer: Timer, key: str, now: Millis) -> None:
        """Do what is due: one of TIMERS."""
        match timer:
            case Timer.CONNECT:  # no namespace was joined in time
                self.engine.close_session(self._clients[key].session, "connect timeout", now)
            case Timer.JOIN:
                client, name = self._joining[key]
                client.answer_is_late(name, now)
            case Timer.ACK:
                socket_id, _, ack_id = key.partition(" ")
                self._sockets[socket_id].takes_ack(int(ack_id))
                self._outputs.put(AckFailed(socket_id, int(ack_id), "timeout"))
            case _:  # Timer.RECOVERY: its time is over
                self._forget(self._sockets[key])

    # -- the program -------------------------------------------------------------------------------

    def ask(self, socket: Socket, body: Body, now: Millis, timeout: int | None) -> int:
        """Send an event that wants an acknowledgement. Return its id."""
        away = socket.carrier is None
        ack_id = socket.ask(body, now)
        if away:
            self._outputs.put(AckFailed(socket.id, ack_id, "disconnected"))
        elif timeout is not None and socket.waits_for(ack_id):  # else: it was dropped as too slow
            self._timers.set(Timer.ACK, f"{socket.id} {ack_id}", now + timeout)
        return ack_id

    def disconnect(self, socket: Socket, now: Millis, *, close: bool) -> None:
        """Take a socket out of its namespace, also one that is away."""
        if socket.carrier is None:
            self._forget(socket)
        else:
            socket.disconnect(now, close=close)

    def answer(self, socket_id: str, refusal: dict[str, object] | None, now: Millis) -> None:
        """Answer a CONNECT. Does nothing if the client has gone meanwhile."""
        joining = self._joining.get(socket_id)
        if joining is not None:
            client, name = joining
            client.answer(name, refusal, now)

    def enter(self, socket: Socket, room: str) -> None:
        self._rooms.enter(socket, room)

    def leave(self, socket: Socket, room: str) -> None:
        self._rooms.leave(socket, room)

    def rooms(self, socket: Socket) -> tuple[str, ...]:
        return self._rooms.of(socket)

    def audience(
        self, namespace: str, rooms: Iterable[str] | None, exclude: Iterable[str]
    ) -> list[Socket]:
        """Return who is to hear a broadcast, each once.

        Args:
            namespace: where.
            rooms: whose members; a socket's id is a room of its own. None: all.
            exclude: rooms whose members are left out.
        """
        if rooms is None:
            audience = dict(self._members.get(namespace, {}))
        else:
            audience = {socket: None for room in rooms for socket in self._in(namespace, room)}
        for room in exclude:
            for socket in self._in(namespace, room):
                audience.pop(socket, None)
        return list(audience)

    def _in(self, namespace: str, room: str) -> tuple[Socket, ...]:
        own = self._sockets.get(room)
        members = self._rooms.members(namespace, room)
        return (own, *members) if own is not None and own.name == namespace else members

    # -- what clients need (client.Hub) ------------------------------------------------------------

    def _open(self, session: EngineSession, now: Millis) -> Client:
        client = Client(session, self)
        self._clients[session.sid] = client
        self._timers.set(Timer.CONNECT, session.sid, now + self.config.connect_timeout)
        return client

    def namespace(self, name: str) -> Namespace | None:
        namespace = self._namespaces.get(name)
        if namespace is not None or len(name) > self.config.namespace_chars:
            return namespace
        matches = any(pattern.fullmatch(name) for pattern in self._patterns)
        return self._program if matches else None

    def new_id(self) -> str:
        return ids.text(self._ids.random_bytes(_ID_BYTES))

    def joining(self, client: Client, socket: Socket, now: Millis) -> None:
        self._joining[socket.id] = client, socket.name
        self._timers.set(Timer.JOIN, socket.id, now + self.config.connect_timeout)

    def not_joining(self, socket: Socket) -> None:
        del self._joining[socket.id]
        self._timers.clear(Timer.JOIN, socket.id)

    def joined(self, client: Client, socket: Socket) -> None:
        self._timers.clear(Timer.CONNECT, client.session.sid)
        self._timers.clear(Timer.RECOVERY, socket.id)
        self._away.pop(socket, None)
        self._sockets[socket.id] = socket
        if socket.journal is not None:
            self._by_pid[socket.pid_key] = socket
        self._members.setdefault(socket.name, {})[socket] = None

    def left(self, socket: Socket, now: Millis, *, may_return: bool) -> None:
        span = self.config.recovery_timeout
        if span is None or socket.journal is None or not may_return:
            self._forget(socket)
            return
        self._away[socket] = None
        self._timers.set(Timer.RECOVERY, socket.id, now + span)
        if len(self._away) > self.config.max_sessions:
            self._forget(next(iter(self._away)))

    def _forget(self, socket: Socket) -> None:
        """The socket has gone for good."""
        self._timers.clear(Timer.RECOVERY, socket.id)
        self._away.pop(socket, None)
        self._by_pid.pop(socket.pid_key, None)
        self._rooms.leave_all(socket)
        del self._sockets[socket.id]
        members = self._members[socket.name]
        del members[socket]
        if not members:
            del self._members[socket.name]

    def closed(self, client: Client) -> None:
        self._timers.clear(Timer.CONNECT, client.session.sid)
        del self._clients[client.session.sid]

    def close_client(self, client: Client, now: Millis) -> None:
        self.engine.close_session(client.session, "forced close", now)

    def abort_client(self, client: Client, now: Millis) -> None:
        self.engine.abort_session(client.session, "slow consumer", now)

    # -- connection state recovery -----------------------------------------------------------------

    def new_pid(self, socket: Socket) -> str | None:
        if self.config.recovery_timeout is None or socket.namespace is not self._program:
            return None
        pid = new_pid(self._ids)
        socket.journal = Journal(self.config.recovery_bytes)
        socket.pid_key = pid_key(pid)
        return pid

    def recover(self, name: str, auth: object, now: Millis) -> Recovered | None:
        if self.config.recovery_timeout is None or not isinstance(auth, dict):
            return None
        pid = auth.get("pid")
        socket = self._by_pid.get(pid_key(pid)) if isinstance(pid, str) else None
        if socket is None or socket.name != name:
            return None
        assert socket.journal is not None
        if socket.carrier is not None:  # nobody knows yet that its old connection is dead
            self.engine.abort_session(socket.carrier.session, "replaced", now)
        missed = socket.journal.since(auth.get("offset", msgspec.UNSET))
        if missed is None:
            self._outputs.put(Notice("debug", "recovery_failed", (("why", "offset"),)))
            self._forget(socket)
            return None
        return Recovered(socket, str(pid), missed)
