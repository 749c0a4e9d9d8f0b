"""The Socket.IO server: the namespaces there are, the sockets in them.

Rules of this file: namespaces are literal names (v5: `/custom?token=1` is another namespace), or
match a pattern of the program's as a whole. A socket that may come back stays known by its id and
in its rooms while it is away.
"""

import re
from collections import OrderedDict

from tokenwire.buckets import Buckets, per_minute
from tokenwire.config import Config
from tokenwire.engineio.engine import Engine
from tokenwire.engineio.session import EngineSession
from tokenwire.queue import Outputs
from tokenwire.socketio.client import Client
from tokenwire.socketio.program import ProgramNamespace
from tokenwire.socketio.socket import Namespace, Socket
from tokenwire.timers import Timer, Timers
from tokenwire.types import IdSource, Millis
from tokenwire.wire import ids
from tokenwire.wire.socketio import Limits

_ID_BYTES = 15
TIMERS = (Timer.CONNECT, Timer.JOIN, Timer.ACK, Timer.RECOVERY)


class SocketServer:
    """Opens a client for each Engine.IO session."""

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
        self.guesses = Buckets(per_minute(config.guesses_per_minute), config.max_addresses)
        self.engine = Engine(config, outputs, timers, id_source, self._open)
        self.program = ProgramNamespace(config, outputs, timers, id_source)
        self._ids = id_source
        self._timers = timers
        self._namespaces: dict[str, Namespace] = dict.fromkeys(config.namespaces, self.program)
        self._patterns = [re.compile(pattern) for pattern in config.namespace_patterns]
        self._clients: dict[str, Client] = {}
        self._pending: OrderedDict[str, Client] = OrderedDict()
        """Those that have joined no namespace yet, by their sessions, the oldest first."""
        self._max_pending = max(1, config.max_sessions * config.pending_percent // 100)
        self._joining: dict[str, tuple[Client, str]] = {}
        """Sockets-to-be by their ids: the client, the namespace."""

    def add_namespace(self, name: str, namespace: Namespace) -> None:
        self._namespaces[name] = namespace

    def has_output(self) -> bool:
        """Return True if a client was not handed everything yet."""
        return any(client.has_output() for client in self._clients.values())

    def bytes_held(self) -> int:
        """Return the size of what waits for clients, and is kept for those who may return."""
        return self.program.bytes_held() + sum(
            client.bytes_held() for client in self._clients.values()
        )

    def handle_timer(self, timer: Timer, key: str, now: Millis) -> None:
        """Do what is due: one of TIMERS."""
        match timer:
            case Timer.CONNECT:
                self._connect_timed_out(self._clients[key], now)
            case Timer.JOIN:
                client, name = self._joining[key]
                client.answer_is_late(name, now)
            case Timer.ACK:
                self.program.ack_timed_out(key)
            case _:  # Timer.RECOVERY
                self.program.recovery_timed_out(key)

    def _connect_timed_out(self, client: Client, now: Millis) -> None:
        """No namespace was joined in time."""
        if client.is_joining:  # the program is late, not the client: that has a timer of its own
            self._await_connect(client.session, now)
        else:
            self.engine.close_session(client.session, "connect timeout", now)

    def answer(self, socket_id: str, refusal: dict[str, object] | None, now: Millis) -> None:
        """Answer a CONNECT. Does nothing if the client has gone meanwhile, or has asked anew."""
        joining = self._joining.get(socket_id)
        if joining is not None:
            client, name = joining
            client.answer(name, refusal, now)

    # -- what clients need (client.Hub) ------------------------------------------------------------

    def _open(self, session: EngineSession, now: Millis) -> Client:
        client = Client(session, self)
        self._clients[session.sid] = client
        if len(self._pending) == self._max_pending:
            oldest = next(iter(self._pending.values()))
            self.engine.evict_session(oldest.session, "too many that have not joined", now)
        self._pending[session.sid] = client
        self._await_connect(session, now)
        return client

    def _await_connect(self, session: EngineSession, now: Millis) -> None:
        self._timers.set(Timer.CONNECT, session.sid, now + self.config.connect_timeout)

    def namespace(self, name: str) -> Namespace | None:
        namespace = self._namespaces.get(name)
        if namespace is not None or len(name) > self.config.namespace_chars:
            return namespace
        matches = any(pattern.fullmatch(name) for pattern in self._patterns)
        return self.program if matches else None

    def new_id(self) -> str:
        return ids.text(self._ids.random_bytes(_ID_BYTES))

    def joining(self, client: Client, socket: Socket, now: Millis) -> None:
        self._joining[socket.id] = client, socket.name
        self._timers.set(Timer.JOIN, socket.id, now + self.config.connect_timeout)

    def not_joining(self, socket: Socket) -> None:
        del self._joining[socket.id]
        self._timers.clear(Timer.JOIN, socket.id)

    def joined(self, client: Client) -> None:
        self._stop_pending(client)

    def closed(self, client: Client) -> None:
        self._stop_pending(client)
        del self._clients[client.session.sid]

    def _stop_pending(self, client: Client) -> None:
        self._timers.clear(Timer.CONNECT, client.session.sid)
        self._pending.pop(client.session.sid, None)

    def close_client(self, client: Client, now: Millis) -> None:
        self.engine.close_session(client.session, "forced close", now)

    def abort_client(self, client: Client, reason: str, now: Millis) -> None:
        self.engine.abort_session(client.session, reason, now)
