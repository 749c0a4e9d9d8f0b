"""Socket.IO in the client's role: namespaces, events, acks, reconnection, recovery.

Rules of this file: what the program wants (namespaces, events) outlives a connection; what the
server gave (sids, acks) does not. The client reconnects by itself after a lost transport, never
after the server's DISCONNECT or the program's own, as the stock client does. The `pid` and the
offset of connection state recovery are kept for each namespace and shown at the next CONNECT.
"""

from collections import deque

import msgspec

from tokenwire.client.config import ClientConfig
from tokenwire.client.engine import EngineClient, State
from tokenwire.client.outputs import (
    Acknowledged,
    AckTimedOut,
    ClientOutput,
    ConnectFailed,
    Event,
    Joined,
    Left,
    Reconnecting,
    Refused,
)
from tokenwire.errors import LocalProtocolError, RemoteProtocolError
from tokenwire.socketio.binary import Assembler, take_out
from tokenwire.timers import Timer, Timers
from tokenwire.types import Chunk, ConnId, Deadline, IdSource, Millis
from tokenwire.wire import Binary
from tokenwire.wire import socketio as wire
from tokenwire.wire.socketio import Limits, Packet, PacketType

_JITTER_STEPS = 65_536
_MAX_EXPONENT = 32


class _Namespace:
    """What the client knows of one namespace."""

    __slots__ = ("auth", "joined", "next_ack", "offset", "pid", "unsent", "waiting_acks")

    def __init__(self, auth: dict[str, object]) -> None:
        self.auth = auth
        self.joined = False
        self.pid: str | None = None
        self.offset: str | None = None
        self.unsent: deque[list[bytes]] = deque()
        self.next_ack = 0
        self.waiting_acks: dict[int, None] = {}


class Client:
    """A Socket.IO client."""

    def __init__(self, config: ClientConfig, *, ids: IdSource) -> None:
        """
        Args:
            config: where to and how.
            ids: draws the WebSocket keys and the jitter.
        """
        self._config = config
        self._ids = ids
        self._limits = Limits(config.max_attachments, config.json_depth, config.json_containers)
        self._outputs: deque[ClientOutput] = deque()
        self._timers = Timers()
        self._engine = EngineClient(config, self._outputs, self._timers, ids, self)
        self._namespaces: dict[str, _Namespace] = {}
        self._assembler: Assembler | None = None
        self._attempt = 0
        self._wanted = False
        self._unsent_bytes = 0
        self._ack_names: dict[str, tuple[str, int]] = {}

    # -- the program -------------------------------------------------------------------------------

    def join(self, namespace: str, now: Millis, auth: dict[str, object] | None = None) -> None:
        """Join a namespace, connecting first where needed; again after each reconnection.

        Raises:
            LocalProtocolError: the client is in it, or on its way into it.
        """
        if namespace in self._namespaces:
            raise LocalProtocolError(f"{namespace} is joined already")
        known = self._namespaces[namespace] = _Namespace(auth or {})
        self._wanted = True
        if self._engine.state is State.CLOSED:
            if not self._timers.is_set(Timer.RECONNECT, 0):
                self._engine.open(now)
        elif self._engine.state is not State.OPENING:
            self._connect(namespace, known, now)

    def leave(self, namespace: str, now: Millis) -> None:
        """Leave a namespace; with the last one the connection is closed.

        Raises:
            LocalProtocolError: the client is not in it.
        """
        known = self._known(namespace)
        if known.joined:
            self._engine.send(wire.encode(Packet(PacketType.DISCONNECT, namespace)), now)
        self._drop(namespace, "io client disconnect", now)

    def close(self, now: Millis) -> None:
        """Leave all and close the connection."""
        for namespace in list(self._namespaces):
            self.leave(namespace, now)

    def emit(
        self,
        namespace: str,
        name: str | int,
        args: list[object],
        now: Millis,
        *,
        want_ack: bool = False,
        ack_timeout: int | None = None,
    ) -> int | None:
        """Send an event; it waits while there is no connection.

        Args:
            namespace: one that was joined with `join`.
            name: the event's name.
            args: JSON values and bytes.
            now: the time.
            want_ack: ask for an acknowledgement.
            ack_timeout: milliseconds until AckTimedOut, if an acknowledgement is wanted.

        Returns:
            The ack id to wait for, if one is wanted.

        Raises:
            LocalProtocolError: not joined; `args` cannot be sent; too much waits.
        """
        known = self._known(namespace)
        ack_id = known.next_ack if want_ack else None
        messages = self._encode(
            (PacketType.EVENT, PacketType.BINARY_EVENT), namespace, ack_id, [name, *args]
        )
        if not known.joined:
            self._unsent_bytes += sum(map(len, messages))
            if self._unsent_bytes > self._config.send_buffer:
                self._unsent_bytes -= sum(map(len, messages))
                raise LocalProtocolError("too much waits for the connection")
            known.unsent.append(messages)
        if ack_id is not None:
            known.next_ack += 1
            known.waiting_acks[ack_id] = None
            if ack_timeout is not None:
                key = f"{ack_id}{namespace}"
                self._ack_names[key] = (namespace, ack_id)
                self._timers.set(Timer.ACK, key, now + ack_timeout)
        if known.joined:
            for message in messages:
                self._engine.send(message, now)
        return ack_id

    def acknowledge(self, namespace: str, ack_id: int, args: list[object], now: Millis) -> None:
        """Answer an Event that has an `ack_id`. Does nothing if the namespace was left meanwhile.

        Raises:
            LocalProtocolError: `args` cannot be sent.
        """
        kinds = (PacketType.ACK, PacketType.BINARY_ACK)
        messages = self._encode(kinds, namespace, ack_id, args)
        known = self._namespaces.get(namespace)
        if known is not None and known.joined:
            for message in messages:
                self._engine.send(message, now)

    def _known(self, namespace: str) -> _Namespace:
        known = self._namespaces.get(namespace)
        if known is None:
            raise LocalProtocolError(f"{namespace} was not joined")
        return known

    @staticmethod
    def _encode(
        kinds: tuple[PacketType, PacketType], namespace: str, ack_id: int | None, data: object
    ) -> list[bytes]:
        attachments: list[Binary] = []
        try:
            data = take_out(data, attachments)
            kind = kinds[1] if attachments else kinds[0]
            packet = Packet(kind, namespace, ack_id, data, len(attachments))
            return [wire.encode(packet), *attachments]
        except (TypeError, ValueError, RecursionError) as error:
            raise LocalProtocolError(f"the arguments cannot be sent: {error}") from error

    @property
    def transport(self) -> str | None:
        """The transport that carries the session now; None without one."""
        return None if self._engine.state is State.CLOSED else self._engine.transport

    @property
    def over(self) -> bool:
        """True: there is no connection, and no attempt to come."""
        return self._engine.state is State.CLOSED and not self._wanted

    # -- the world ---------------------------------------------------------------------------------

    def connected(self, conn: ConnId, now: Millis) -> None:
        """The socket of a Dial is open."""
        self._engine.connected(conn, now)

    def receive_data(self, conn: ConnId, data: bytes, now: Millis) -> None:
        """Take what a socket received, cut anywhere."""
        self._engine.receive_data(conn, data, now)

    def receive_eof(self, conn: ConnId, now: Millis) -> None:
        """The server sends no more on this socket."""
        self._engine.receive_eof(conn, now)

    def connection_lost(self, conn: ConnId, now: Millis) -> None:
        """The socket is gone, or could not be opened."""
        self._engine.connection_lost(conn, now)

    def handle_timeout(self, now: Millis) -> None:
        """Do what is due. Extra calls are harmless."""
        for timer, key in self._timers.due(now):
            match timer:
                case Timer.RECONNECT:
                    self._engine.open(now)
                case Timer.ACK:
                    namespace, ack_id = self._ack_names.pop(str(key))
                    del self._namespaces[namespace].waiting_acks[ack_id]
                    self._outputs.append(AckTimedOut(namespace, ack_id))
                case _:
                    self._engine.timed_out(timer, now)

    def poll(self) -> ClientOutput | None:
        """Return the next thing to do or to know, or None."""
        return self._outputs.popleft() if self._outputs else None

    def data_to_send(self, conn: ConnId, max_bytes: int, now: Millis) -> Chunk:
        """Return what to write to a socket now."""
        return self._engine.data_to_send(conn, max_bytes)

    def next_timeout(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self._timers.next()

    # -- the session (engine.Upper) ----------------------------------------------------------------

    def opened(self, now: Millis) -> None:
        self._attempt = 0
        for name, known in self._namespaces.items():
            self._connect(name, known, now)

    def _connect(self, name: str, known: _Namespace, now: Millis) -> None:
        auth: dict[str, object] = dict(known.auth)
        if known.pid is not None:
            auth["pid"] = known.pid
            if known.offset is not None:
                auth["offset"] = known.offset
        data: object = auth or msgspec.UNSET
        self._engine.send(wire.encode(Packet(PacketType.CONNECT, name, data=data)), now)

    def receive(self, message: bytes, now: Millis) -> None:
        if type(message) is Binary:
            if self._assembler is None:
                raise RemoteProtocolError("an attachment without its packet")
            if self._assembler.add(message):
                packet, data = self._assembler.packet, self._assembler.data()
                self._assembler = None
                self._dispatch(packet, data, now)
            return
        if self._assembler is not None:
            raise RemoteProtocolError("a packet between the attachments of another")
        packet = wire.decode(message, self._limits)
        if packet.attachments:
            self._assembler = Assembler(packet, self._config.max_message)
        else:
            self._dispatch(packet, packet.data, now)

    def _dispatch(self, packet: Packet, data: object, now: Millis) -> None:
        name = packet.namespace
        known = self._namespaces.get(name)
        if known is None:  # left while this was on its way
            return
        match packet.type:
            case PacketType.CONNECT:
                self._joined(name, known, data, now)
            case PacketType.CONNECT_ERROR:
                del self._namespaces[name]
                self._outputs.append(Refused(name, data))
                self._close_if_unused(now)
            case PacketType.DISCONNECT:
                self._drop(name, "io server disconnect", now)
            case PacketType.EVENT | PacketType.BINARY_EVENT:
                assert isinstance(data, list)
                event, *args = data
                if known.pid is not None and args and isinstance(args[-1], str):
                    known.offset = args[-1]
                self._outputs.append(Event(name, event, tuple(args), packet.id))
            case PacketType.ACK | PacketType.BINARY_ACK:
                assert isinstance(data, list)
                assert packet.id is not None
                if packet.id in known.waiting_acks:
                    self._forget_ack(name, known, packet.id)
                    self._outputs.append(Acknowledged(name, packet.id, tuple(data)))

    def _joined(self, name: str, known: _Namespace, data: object, now: Millis) -> None:
        sid = data.get("sid") if isinstance(data, dict) else None
        pid = data.get("pid") if isinstance(data, dict) else None
        if not isinstance(sid, str) or not (pid is None or isinstance(pid, str)) or known.joined:
            raise RemoteProtocolError("the answer to CONNECT cannot be read")
        recovered = pid is not None and pid == known.pid
        if not recovered:
            known.offset = None
        known.pid = pid
        known.joined = True
        self._outputs.append(Joined(name, sid, recovered))
        while known.unsent:
            messages = known.unsent.popleft()
            self._unsent_bytes -= sum(map(len, messages))
            for message in messages:
                self._engine.send(message, now)

    def _forget_ack(self, name: str, known: _Namespace, ack_id: int) -> None:
        del known.waiting_acks[ack_id]
        key = f"{ack_id}{name}"
        if self._ack_names.pop(key, None) is not None:
            self._timers.clear(Timer.ACK, key)

    def _drop(self, name: str, reason: str, now: Millis) -> None:
        known = self._namespaces.pop(name)
        self._lose_acks(name, known)
        self._unsent_bytes -= sum(len(part) for parts in known.unsent for part in parts)
        self._outputs.append(Left(name, reason))
        self._close_if_unused(now)

    def _lose_acks(self, name: str, known: _Namespace) -> None:
        for ack_id in list(known.waiting_acks):
            self._forget_ack(name, known, ack_id)
            self._outputs.append(AckTimedOut(name, ack_id))

    def _close_if_unused(self, now: Millis) -> None:
        if not self._namespaces:
            self._wanted = False
            self._timers.clear(Timer.RECONNECT, 0)
            self._engine.close("forced close", now)

    def closed(self, reason: str, now: Millis) -> None:
        self._assembler = None
        was_joined = False
        for name, known in self._namespaces.items():
            if known.joined:
                was_joined = True
                known.joined = False
                self._lose_acks(name, known)
                self._outputs.append(Left(name, reason))
        if not self._wanted:
            return
        if not was_joined:
            self._outputs.append(ConnectFailed(reason))
        limit = self._config.reconnect_attempts
        if not self._config.reconnect or (limit is not None and self._attempt >= limit):
            self._wanted = False
            for name in list(self._namespaces):
                del self._namespaces[name]
            return
        self._attempt += 1
        delay = self._delay()
        self._timers.set(Timer.RECONNECT, 0, now + delay)
        self._outputs.append(Reconnecting(self._attempt, delay))

    def _delay(self) -> int:
        """Return the delay before this attempt: exponential, bounded, moved at random."""
        exponent = min(self._attempt - 1, _MAX_EXPONENT)
        delay = min(self._config.reconnect_delay * 2**exponent, self._config.reconnect_delay_max)
        step = int.from_bytes(self._ids.random_bytes(2), "big") / _JITTER_STEPS
        return int(delay * (1 + self._config.reconnect_jitter * (2 * step - 1)))
