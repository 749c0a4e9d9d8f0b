"""The program's own namespaces: what happens in them becomes outputs, what it wants is done.

Rules of this file: it knows every socket in them by its id, those that are away too. An
acknowledgement that was asked for comes (Acknowledged) or does not (AckFailed), exactly once; what
still waits when a socket leaves fails before Disconnected is said. A socket that comes back is the
one that was let in: neither the program nor the payload of its new CONNECT is asked again.
"""

from collections.abc import Sequence

from tokenwire.config import Config
from tokenwire.errors import LocalProtocolError
from tokenwire.outputs import (
    AckFailed,
    Acknowledged,
    Connected,
    Disconnected,
    Event,
    Forgotten,
    Joining,
)
from tokenwire.queue import Outputs
from tokenwire.socketio.binary import Body, encode_event
from tokenwire.socketio.lost import Lost
from tokenwire.socketio.recovery import Journal, new_name, new_pid, pid_key
from tokenwire.socketio.rooms import Rooms
from tokenwire.socketio.socket import LATER, Later, Recovered, Socket
from tokenwire.timers import Timer, Timers
from tokenwire.types import IdSource, Millis


class ProgramNamespace:
    """The handler of every namespace of the program's (`socket.Namespace`)."""

    def __init__(
        self, config: Config, outputs: Outputs, timers: Timers, id_source: IdSource
    ) -> None:
        self._config = config
        self._outputs = outputs
        self._timers = timers
        self._ids = id_source
        self._sockets: dict[str, Socket] = {}
        self._members: dict[str, dict[Socket, None]] = {}
        """The sockets of each namespace."""
        self._rooms = Rooms()
        self._asked: dict[str, tuple[Socket, int]] = {}
        """Acknowledgements that have a time limit, by the keys of their timers."""
        self._by_pid: dict[bytes, Socket] = {}
        self._away: Lost[Socket] = Lost(config.max_lost_sockets, config.max_lost_per_address)

    def bytes_held(self) -> int:
        """Return the size of what is kept for sockets that may return."""
        journals = (socket.journal for socket in self._sockets.values())
        return sum(journal.size for journal in journals if journal is not None)

    # -- what clients do (socket.Namespace) --------------------------------------------------------

    @property
    def recovers(self) -> bool:
        return self._config.recovery_timeout is not None

    def connect(self, socket: Socket, auth: object, now: Millis) -> Later | None:
        if not self._config.program_decides_joins:
            return None
        self._outputs.put(Joining(socket.id, socket.name, self._shown(auth)))
        return LATER

    def _shown(self, auth: object) -> object:
        """Return the payload without what is the protocol's own: a pid is a secret."""
        if self._config.recovery_timeout is not None and isinstance(auth, dict):
            return {key: value for key, value in auth.items() if key not in ("pid", "offset")}
        return auth

    def admit(self, socket: Socket, auth: object) -> str | None:
        config = self._config
        if config.recovery_timeout is None:
            return None
        pid = new_pid(self._ids)
        socket.pid_key = pid_key(pid)
        socket.journal = Journal(new_name(self._ids), config.recovery_bytes)
        socket.auth = self._shown(auth)
        return pid

    def recover(self, name: str, auth: object, now: Millis) -> Recovered | None:
        pid = auth.get("pid") if isinstance(auth, dict) else None
        socket = self._by_pid.get(pid_key(pid)) if isinstance(pid, str) else None
        if socket is None or socket.name != name:
            return None
        assert isinstance(auth, dict)
        assert socket.journal is not None
        missed = socket.journal.since(auth.get("offset"))
        late = self._timers.is_due(Timer.RECOVERY, socket.id, now)  # its call may be coming
        if missed is None or late:
            if socket.carrier is None:
                self.forget(socket)
            return None
        if socket.carrier is not None:  # nobody knows yet that its old connection is dead
            carrier = socket.carrier
            carrier.release(socket)
            self._say_gone(socket, "replaced", may_return=True)
            carrier.abort("replaced", now)
        messages = [message for packet in missed for message in packet]
        return Recovered(socket, str(pid), messages)

    def connected(self, socket: Socket, auth: object, now: Millis, *, recovered: bool) -> None:
        self._timers.clear(Timer.RECOVERY, socket.id)
        self._away.remove(socket)
        self._sockets[socket.id] = socket
        self._members.setdefault(socket.name, {})[socket] = None
        if socket.journal is not None:
            self._by_pid[socket.pid_key] = socket
        auth = self._shown(auth) if socket.journal is None else socket.auth
        self._outputs.put(Connected(socket.id, socket.name, auth, recovered))

    def event(
        self, socket: Socket, name: str | int, args: list[object], ack_id: int | None, now: Millis
    ) -> None:
        self._outputs.put(Event(socket.id, socket.name, name, tuple(args), ack_id))

    def acknowledged(self, socket: Socket, ack_id: int, args: list[object]) -> None:
        self._stop_waiting(socket, ack_id)
        self._outputs.put(Acknowledged(socket.id, ack_id, tuple(args)))

    def received(self, socket: Socket) -> None:
        """Programs are not told."""

    def disconnected(self, socket: Socket, reason: str, now: Millis, *, may_return: bool) -> None:
        span = self._config.recovery_timeout
        may_return = may_return and span is not None
        self._say_gone(socket, reason, may_return=may_return)
        if span is None or not may_return:
            self._remove(socket)
            return
        self._timers.set(Timer.RECOVERY, socket.id, now + span)
        surplus = self._away.add(socket, socket.address)
        if surplus is not None:
            self.forget(surplus)

    def _say_gone(self, socket: Socket, reason: str, *, may_return: bool) -> None:
        for ack_id in socket.end_acks():
            self._stop_waiting(socket, ack_id)
            self._outputs.put(AckFailed(socket.id, ack_id, "disconnected"))
        self._outputs.put(Disconnected(socket.id, socket.name, reason, may_return))

    # -- those that are away -----------------------------------------------------------------------

    def recovery_timed_out(self, socket_id: str) -> None:
        """A socket was away for too long."""
        self.forget(self._sockets[socket_id])

    def forget(self, socket: Socket) -> None:
        """A socket that was away will not come back."""
        self._timers.clear(Timer.RECOVERY, socket.id)
        self._away.remove(socket)
        self._remove(socket)
        self._outputs.put(Forgotten(socket.id, socket.name))

    def forget_all(self) -> None:
        """The server ends: nobody will come back."""
        for socket in list(self._away):
            self.forget(socket)

    def _remove(self, socket: Socket) -> None:
        self._by_pid.pop(socket.pid_key, None)
        self._rooms.leave_all(socket)
        del self._sockets[socket.id]
        members = self._members[socket.name]
        del members[socket]
        if not members:
            del self._members[socket.name]

    # -- what the program does ---------------------------------------------------------------------

    def socket(self, socket_id: str) -> Socket:
        """Return the socket with this id, also one that is away.

        Raises:
            LocalProtocolError: there is none (any more).
        """
        socket = self._sockets.get(socket_id)
        if socket is None:
            raise LocalProtocolError("no such socket: it has left its namespace")
        return socket

    def ask(self, socket: Socket, body: Body, now: Millis, timeout: int | None) -> int:
        """Send an event that wants an acknowledgement. Return its id."""
        away = socket.carrier is None
        ack_id = socket.ask(body, now)
        if away:
            self._outputs.put(AckFailed(socket.id, ack_id, "disconnected"))
        elif timeout is not None and socket.waits_for(ack_id):  # else: it was dropped as too slow
            key = _key(socket, ack_id)
            self._asked[key] = socket, ack_id
            self._timers.set(Timer.ACK, key, now + timeout)
        return ack_id

    def ack_timed_out(self, key: str) -> None:
        """No acknowledgement came in time."""
        socket, ack_id = self._asked.pop(key)
        socket.takes_ack(ack_id)
        self._outputs.put(AckFailed(socket.id, ack_id, "timeout"))

    def _stop_waiting(self, socket: Socket, ack_id: int) -> None:
        key = _key(socket, ack_id)
        if self._asked.pop(key, None) is not None:
            self._timers.clear(Timer.ACK, key)

    def broadcast(self, audience: list[Socket], body: Body, now: Millis, *, volatile: bool) -> None:
        """Send an event to all of `audience`, which are of one namespace."""
        made = encode_event(audience[0].name, body) if audience else []
        for socket in audience:
            socket.emit(body, now, volatile=volatile, made=made)

    def disconnect(self, socket: Socket, now: Millis, *, close: bool) -> None:
        """Take a socket out of its namespace, also one that is away."""
        if socket.carrier is None:
            self.forget(socket)
        else:
            socket.disconnect(now, close=close)

    def enter(self, socket: Socket, room: str) -> None:
        """Put a socket into a room.

        Raises:
            LocalProtocolError: the room's name is another socket's id: what is said to that one
                is not for others.
        """
        if room in self._sockets and room != socket.id:
            raise LocalProtocolError("the room has the name of another socket")
        self._rooms.enter(socket, room)

    def leave(self, socket: Socket, room: str) -> None:
        self._rooms.leave(socket, room)

    def rooms(self, socket: Socket) -> tuple[str, ...]:
        return self._rooms.of(socket)

    def audience(
        self, namespace: str, rooms: Sequence[str] | None, exclude: Sequence[str]
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
        if own is not None:
            return (own,) if own.name == namespace else ()
        return self._rooms.members(namespace, room)


def _key(socket: Socket, ack_id: int) -> str:
    return f"{socket.id} {ack_id}"
