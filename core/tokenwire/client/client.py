"""Socket.IO in the client's role: namespaces, events, acks, reconnection, recovery.

Rules of this file: what the program wants (namespaces, events) outlives a connection; what the
server gave (sids, acks) does not. The client reconnects by itself after a lost transport, never
after the server's DISCONNECT or the program's own, as the stock client does. The `pid` and the
offset of connection state recovery are kept for each namespace and shown at the next CONNECT. An
acknowledgement that is waited for ends in exactly one Acknowledged or AckTimedOut.
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
from tokenwire.socketio.binary import PacketReader, encode_ack, encode_body, encode_event
from tokenwire.timers import Timer, Timers
from tokenwire.types import Chunk, ConnId, Deadline, IdSource, Millis
from tokenwire.wire import socketio as wire
from tokenwire.wire.socketio import RESERVED_EVENTS, Limits, Packet, PacketType

_JITTER_STEPS = 65_536
_MAX_EXPONENT = 32  # further doubling changes nothing: every maximum is below


class _Unsent(msgspec.Struct, frozen=True):
    """An event that waits for its namespace."""

    messages: list[bytes]
    size: int
    ack_id: int | None


class _Namespace:
    """What the client knows of one namespace."""

    __slots__ = ("auth", "joined", "next_ack", "offset", "pid", "unsent", "waiting_acks")

    def __init__(self, auth: dict[str, object]) -> None:
        self.auth = auth
        self.joined = False
        self.pid: str | None = None
        self.offset: str | None = None
        self.unsent: deque[_Unsent] = deque()
        self.next_ack = 0
        self.waiting_acks: dict[int, None] = {}


class Client:
    """A Socket.IO client."""

    def __init__(self, config: ClientConfig, *, ids: IdSource) -> None:
        """
        Args:
            config: where to and how.
            ids: draws the WebSocket's keys and the jitter.
        """
        self._config = config
        self._ids = ids
        limits = Limits(config.max_attachments, config.json_depth, config.json_containers)
        self._reader = PacketReader(limits, config.max_message)
        self._outputs: deque[ClientOutput] = deque()
        self._timers = Timers()
        self._engine = EngineClient(config, self._outputs, self._timers, ids, self)
        self._namespaces: dict[str, _Namespace] = {}
        self._attempt = 0
        self._wanted = False
        self._leaving = False
        """True: the session that is closing was closed by us."""
        self._unsent_bytes = 0

    # -- the program -------------------------------------------------------------------------------

    def join(self, namespace: str, now: Millis, auth: dict[str, object] | None = None) -> None:
        """Join a namespace, connecting first where needed; again after each reconnection.

        Args:
            namespace: its name, "/" or "/chat".
            now: the time.
            auth: what the server is to know; goes with each CONNECT.

        Raises:
            LocalProtocolError: the client is in it, or on its way into it; `auth` is not JSON; a
                namespace cannot be called so.
        """
        if namespace in self._namespaces:
            raise LocalProtocolError(f"{namespace} is joined already")
        known = _Namespace(auth or {})
        try:
            packet = self._connect_packet(namespace, known)
        except (TypeError, ValueError, RecursionError) as error:
            raise LocalProtocolError(f"the CONNECT cannot be sent: {error}") from error
        if not namespace.startswith("/") or "," in namespace:
            raise LocalProtocolError(f"a namespace cannot be called {namespace}")
        self._namespaces[namespace] = known
        self._wanted = True
        match self._engine.state:
            case State.CLOSED:
                if not self._timers.is_set(Timer.RECONNECT, 0):
                    self._engine.open(now)
            case State.OPENING | State.CLOSING:
                pass  # its turn comes
            case _:
                self._engine.send(packet, now)

    def leave(self, namespace: str, now: Millis) -> None:
        """Leave a namespace; with the last one the connection is closed.

        Raises:
            LocalProtocolError: the client is not in it.
        """
        if self._known(namespace).joined:
            self._engine.send(wire.encode(Packet(PacketType.DISCONNECT, namespace)), now)
        self._drop(namespace, Left(namespace, "io client disconnect"), now)

    def close(self, now: Millis) -> None:
        """Leave all and close the connection, behind what waits."""
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
            ack_timeout: milliseconds until AckTimedOut, if an acknowledgement is wanted. An event
                that waits until then is not sent any more.

        Returns:
            The ack id to wait for, if one is wanted.

        Raises:
            LocalProtocolError: not joined; the name is reserved; `args` cannot be sent; too much
                waits.
        """
        if self._timers.is_due(Timer.PONG, 0, now):  # what is sent now would be lost
            self._engine.timed_out(Timer.PONG, now)
        known = self._known(namespace)
        if name in RESERVED_EVENTS:
            raise LocalProtocolError(f"{name!r} is the protocol's own event")
        ack_id = known.next_ack if want_ack else None
        body = encode_body([name, *args], self._config.max_attachments)
        messages = encode_event(namespace, body, ack_id)
        size = sum(map(len, messages))
        waiting = self._unsent_bytes + self._engine.queued_bytes
        if waiting and waiting + size > self._config.send_buffer:
            raise LocalProtocolError("too much waits for the server")
        if ack_id is not None:
            known.next_ack += 1
            known.waiting_acks[ack_id] = None
            if ack_timeout is not None:
                self._timers.set(Timer.ACK, f"{ack_id}{namespace}", now + ack_timeout)
        if known.joined:
            self._send(messages, now)
        else:
            known.unsent.append(_Unsent(messages, size, ack_id))
            self._unsent_bytes += size
        return ack_id

    def acknowledge(self, namespace: str, ack_id: int, args: list[object], now: Millis) -> None:
        """Answer an Event that has an `ack_id`. Does nothing if the namespace was left meanwhile.

        Raises:
            LocalProtocolError: `args` cannot be sent.
        """
        messages = encode_ack(namespace, encode_body(args, self._config.max_attachments), ack_id)
        known = self._namespaces.get(namespace)
        if known is not None and known.joined:
            self._send(messages, now)

    def _known(self, namespace: str) -> _Namespace:
        known = self._namespaces.get(namespace)
        if known is None:
            raise LocalProtocolError(f"{namespace} was not joined")
        return known

    def _send(self, messages: list[bytes], now: Millis) -> None:
        for message in messages:
            self._engine.send(message, now)

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
                    self._ack_timed_out(str(key))
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
            self._engine.send(self._connect_packet(name, known), now)

    @staticmethod
    def _connect_packet(name: str, known: _Namespace) -> bytes:
        data: dict[str, object] = {}
        if known.pid is not None:
            data["pid"] = known.pid
            if known.offset is not None:
                data["offset"] = known.offset
        data |= known.auth
        return wire.encode(Packet(PacketType.CONNECT, name, data=data or msgspec.UNSET))

    def receive(self, message: bytes, now: Millis) -> None:
        packet = self._reader.read(message)
        if packet is None:
            return
        name, data = packet.namespace, packet.data
        known = self._namespaces.get(name)
        if known is None:  # left while this was on its way
            return
        match packet.type:
            case PacketType.CONNECT:
                self._joined(name, known, data, now)
            case PacketType.CONNECT_ERROR:
                self._drop(name, Refused(name, data), now)
            case PacketType.DISCONNECT:
                self._drop(name, Left(name, "io server disconnect"), now)
            case PacketType.EVENT | PacketType.BINARY_EVENT:
                assert isinstance(data, list)
                event, *args = data
                if known.pid is not None and args and isinstance(args[-1], str):
                    known.offset = args[-1]
                self._outputs.append(Event(name, event, tuple(args), packet.id))
            case _:  # ACK, BINARY_ACK
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
            event = known.unsent.popleft()
            self._unsent_bytes -= event.size
            self._send(event.messages, now)

    def closed(self, reason: str, detail: str, now: Millis) -> None:
        self._reader.reset()
        if self._leaving:
            self._leaving = False
            if self._wanted:  # again, since
                self._engine.open(now)
            return
        was_joined = False
        for name, known in self._namespaces.items():
            if known.joined:
                was_joined = True
                known.joined = False
                self._lose_acks(name, known)
                self._outputs.append(Left(name, reason, detail))
        if not was_joined:
            self._outputs.append(ConnectFailed(reason, detail))
        self._reconnect(now)

    # -- ends --------------------------------------------------------------------------------------

    def _drop(self, name: str, output: Left | Refused, now: Millis) -> None:
        """The client is out of a namespace. The connection closes with the last one."""
        self._forget(name)
        self._outputs.append(output)
        if not self._namespaces:
            self._wanted = False
            self._timers.clear(Timer.RECONNECT, 0)
            self._leaving = self._engine.state is not State.CLOSED
            self._engine.close(now)

    def _forget(self, name: str) -> None:
        known = self._namespaces.pop(name)
        self._lose_acks(name, known)
        self._unsent_bytes -= sum(event.size for event in known.unsent)

    def _lose_acks(self, name: str, known: _Namespace) -> None:
        for ack_id in list(known.waiting_acks):
            self._forget_ack(name, known, ack_id)
            self._outputs.append(AckTimedOut(name, ack_id))

    def _forget_ack(self, name: str, known: _Namespace, ack_id: int) -> None:
        del known.waiting_acks[ack_id]
        self._timers.clear(Timer.ACK, f"{ack_id}{name}")

    def _ack_timed_out(self, key: str) -> None:
        digits, slash, rest = key.partition("/")
        name, ack_id = slash + rest, int(digits)
        known = self._namespaces[name]
        del known.waiting_acks[ack_id]
        for event in [event for event in known.unsent if event.ack_id == ack_id]:
            known.unsent.remove(event)
            self._unsent_bytes -= event.size
        self._outputs.append(AckTimedOut(name, ack_id))

    def _reconnect(self, now: Millis) -> None:
        """Plan the next attempt, or give up."""
        limit = self._config.reconnect_attempts
        if not self._config.reconnect or (limit is not None and self._attempt >= limit):
            self._wanted = False
            for name in list(self._namespaces):
                self._forget(name)
            return
        self._attempt += 1
        delay = self._delay()
        self._timers.set(Timer.RECONNECT, 0, now + delay)
        self._outputs.append(Reconnecting(self._attempt, delay))

    def _delay(self) -> int:
        """Return the delay before this attempt: exponential, bounded, moved at random."""
        exponent = min(self._attempt - 1, _MAX_EXPONENT)
        limit, jitter = self._config.reconnect_delay_max, self._config.reconnect_jitter
        delay = min(self._config.reconnect_delay * 2**exponent, limit)
        low, high = delay * (1 - jitter), min(delay * (1 + jitter), limit)
        step = int.from_bytes(self._ids.random_bytes(2), "big") / _JITTER_STEPS
        return int(low + (high - low) * step)
