"""One Socket.IO client: what it has joined, what waits for it.

Rules of this file: a client joins each namespace by a CONNECT; any packet for a namespace that it
has not joined closes the whole connection, as every other misuse does (RemoteProtocolError, raised
to the Engine.IO layer). What the layers above send is either an event, queued here and bounded, or
comes from a socket's `source`, pulled only when the transport has room.
"""

from typing import Protocol

import msgspec

from tokenwire.buckets import Buckets
from tokenwire.config import Config
from tokenwire.engineio.outbox import Outbox
from tokenwire.engineio.session import ENDED, PARSE_ERROR, SLOW_CONSUMER, EngineSession
from tokenwire.errors import RemoteProtocolError
from tokenwire.socketio.binary import PacketReader
from tokenwire.socketio.guesses import Guesser
from tokenwire.socketio.recovery import is_pid
from tokenwire.socketio.socket import LATER, Namespace, Recovered, Socket
from tokenwire.types import Millis
from tokenwire.wire import Binary
from tokenwire.wire import socketio as wire
from tokenwire.wire.socketio import Packet, PacketType

_INVALID: dict[str, object] = {"message": "Invalid namespace"}  # the words of Node's server
_TOO_MANY: dict[str, object] = {"message": "Too many namespaces"}
_TOO_LARGE: dict[str, object] = {"message": "Payload too large"}
_LATE: dict[str, object] = {"message": "Connection timed out"}


class Hub(Protocol):
    """What a client needs of the server that opened it (`server.py`)."""

    config: Config
    limits: wire.Limits
    guesses: Buckets
    """Wrong secrets, by address."""

    def namespace(self, name: str) -> Namespace | None: ...

    def new_id(self) -> str: ...

    def joining(self, client: "Client", socket: Socket, now: Millis) -> None:
        """The answer to a CONNECT comes later."""
        ...

    def not_joining(self, socket: Socket) -> None:
        """The CONNECT needs no answer any more."""
        ...

    def joined(self, client: "Client") -> None: ...

    def closed(self, client: "Client") -> None: ...

    def close_client(self, client: "Client", now: Millis) -> None: ...

    def abort_client(self, client: "Client", reason: str, now: Millis) -> None: ...


class Client:
    """The Socket.IO side of one Engine.IO session."""

    __slots__ = (
        "_hub",
        "_joining",
        "_outbox",
        "_reader",
        "_taken_out",
        "guesser",
        "session",
        "sockets",
    )

    def __init__(self, session: EngineSession, hub: Hub) -> None:
        self.session = session
        self.guesser = Guesser(session.address, hub.guesses, hub.config.guesses_per_connection)
        self.sockets: dict[str, Socket] = {}
        self._hub = hub
        self._joining: dict[str, tuple[Socket, object]] = {}
        """Namespaces that have not answered the client's CONNECT: the socket-to-be, its payload."""
        self._outbox = Outbox(hub.config.outbox_bytes, hub.config.outbox_burst_bytes)
        self._reader = PacketReader(hub.limits, hub.config.max_payload)
        self._taken_out: tuple[str, ...] = ()
        """Namespaces that the server has disconnected: the client may not know yet."""

    # -- to the client -----------------------------------------------------------------------------

    def send(self, messages: list[bytes], now: Millis) -> None:
        """Queue the messages of one packet. A client that lets too much wait is dropped."""
        if self._outbox.put(messages, writable=self.session.writable()):
            self.session.wake()
        else:
            self.abort(SLOW_CONSUMER, now)

    def abort(self, reason: str, now: Millis) -> None:
        """Drop the transport without writing what waits."""
        self._hub.abort_client(self, reason, now)

    def bytes_held(self) -> int:
        """Return the size of the events that wait."""
        return self._outbox.size

    def has_output(self) -> bool:
        if self._outbox:
            return True
        for socket in self.sockets.values():
            if socket.source is not None and socket.source.has_events():
                return True
        return False

    def has_queued(self) -> bool:
        return bool(self._outbox)

    def received(self) -> None:
        for socket in self.sockets.values():
            socket.namespace.received(socket)

    def pull(self, out: list[bytes], budget: int, now: Millis) -> None:
        budget = self._outbox.pull(out, budget)
        for socket in self.sockets.values():
            if budget <= 0:
                return
            if socket.source is not None:
                budget -= socket.source.pull_events(out, budget, now)

    def refused(self, now: Millis) -> None:
        for socket in self.sockets.values():
            if socket.source is not None:
                socket.source.refused(now)

    def last_words(self) -> list[bytes]:
        return self._outbox.take_all()

    # -- from the client ---------------------------------------------------------------------------

    def receive(self, message: bytes, now: Millis) -> None:
        packet = self._reader.read(message)
        if packet is None:
            if type(message) is not Binary:  # nothing is kept for strangers
                self._socket_of(self._reader.unfinished)
        elif packet.type is PacketType.CONNECT:
            self._connect(packet, len(message), now)
        else:
            socket = self._socket_of(packet)
            if socket is not None:
                self._dispatch(socket, packet, now)

    def _socket_of(self, packet: Packet) -> Socket | None:
        """Return whom a packet is for; None: the server has disconnected it in the meantime.

        Raises:
            RemoteProtocolError: the namespace was not joined.
        """
        socket = self.sockets.get(packet.namespace)
        if socket is None and packet.namespace not in self._taken_out:
            raise RemoteProtocolError("a packet for a namespace that was not joined")
        return socket

    def _dispatch(self, socket: Socket, packet: Packet, now: Millis) -> None:
        data = packet.data
        match packet.type:
            case PacketType.EVENT | PacketType.BINARY_EVENT:
                assert isinstance(data, list)
                name, *args = data
                socket.namespace.event(socket, name, args, packet.id, now)
            case PacketType.ACK | PacketType.BINARY_ACK:
                assert isinstance(data, list)
                assert packet.id is not None
                if socket.takes_ack(packet.id):  # one to an unknown id is ignored
                    socket.namespace.acknowledged(socket, packet.id, data)
            case PacketType.DISCONNECT:
                self._leave(socket, "client namespace disconnect", now)
            case _:  # CONNECT_ERROR
                raise RemoteProtocolError("a CONNECT_ERROR from a client")

    def _connect(self, packet: Packet, size: int, now: Millis) -> None:
        name = packet.namespace
        if name in self.sockets:
            raise RemoteProtocolError("a second CONNECT to a namespace")
        self._taken_out = tuple(other for other in self._taken_out if other != name)
        if name in self._joining:  # the client has given up the first, and says nothing of it
            self._stop_joining(name)
        config, namespace = self._hub.config, self._hub.namespace(name)
        if namespace is None:
            self._refuse(name, _INVALID, now)
        elif len(self.sockets) + len(self._joining) >= config.max_namespaces:
            self._refuse(name, _TOO_MANY, now)
        elif size > config.connect_bytes:
            self._refuse(name, _TOO_LARGE, now)
        else:
            auth = {} if packet.data is msgspec.UNSET else packet.data
            recovered = namespace.recover(name, auth, now)
            if recovered is not None:
                self._return(recovered, auth, now)
                return
            if namespace.recovers and isinstance(auth, dict) and is_pid(auth.get("pid")):
                self.guesser.was_wrong(now)
            self._ask_to_join(name, namespace, auth, now)
            if self.guesser.is_over:
                self.close(now)

    def _ask_to_join(self, name: str, namespace: Namespace, auth: object, now: Millis) -> None:
        socket = Socket(self, self._hub.new_id(), name, namespace)
        answer = namespace.connect(socket, auth, now)
        if answer is None:
            self._admit(socket, auth, now)
        elif answer is LATER:
            self._joining[name] = socket, auth
            self._hub.joining(self, socket, now)
        else:
            self._refuse(name, answer, now)

    def _admit(self, socket: Socket, auth: object, now: Millis) -> None:
        self.send([_reply(socket, socket.namespace.admit(socket, auth))], now)
        if self.session.state not in ENDED:  # else: dropped as too slow, it has joined nothing
            self._join(socket, auth, now, recovered=False)

    def _return(self, recovered: Recovered, auth: object, now: Millis) -> None:
        """A socket comes back: the CONNECT reply, then what it missed.

        Node's server has it the other way round. The stock client keeps events that come before
        the reply, across connections too, and counts none of them: after a second loss it would
        get them twice.
        """
        socket = recovered.socket
        socket.carrier = self
        socket.address = self.session.address
        self._outbox.put_excused([_reply(socket, recovered.pid), *recovered.missed])
        self._join(socket, auth, now, recovered=True)
        self.session.wake()

    def _join(self, socket: Socket, auth: object, now: Millis, *, recovered: bool) -> None:
        self.sockets[socket.name] = socket
        self._hub.joined(self)
        socket.namespace.connected(socket, auth, now, recovered=recovered)

    @property
    def is_joining(self) -> bool:
        """True: the program has still to answer a CONNECT."""
        return bool(self._joining)

    def answer(self, name: str, refusal: dict[str, object] | None, now: Millis) -> None:
        """Answer a CONNECT that waits: let the client in, or refuse."""
        socket, auth = self._stop_joining(name)
        if refusal is None:
            self._admit(socket, auth, now)
        else:
            self._refuse(name, refusal, now)

    def answer_is_late(self, name: str, now: Millis) -> None:
        """The program has not answered a CONNECT in time: it is refused."""
        self.answer(name, _LATE, now)

    def _stop_joining(self, name: str) -> tuple[Socket, object]:
        socket, auth = self._joining.pop(name)
        self._hub.not_joining(socket)
        return socket, auth

    def _refuse(self, namespace: str, error: dict[str, object], now: Millis) -> None:
        packet = Packet(PacketType.CONNECT_ERROR, namespace, data=error)
        self.send([wire.encode(packet)], now)

    # -- ends --------------------------------------------------------------------------------------

    def disconnect(self, socket: Socket, now: Millis) -> None:
        """Tell the client that it is out of a namespace. It is out also if it does not hear it."""
        self._leave(socket, "server namespace disconnect", now)
        self._taken_out = (*self._taken_out, socket.name)[-self._hub.config.max_namespaces :]
        self.send([_goodbye(socket.name)], now)

    def close(self, now: Millis) -> None:
        """Leave every namespace, then close the transport behind what is queued."""
        names = list(self.sockets)
        for name in names:
            self._leave(self.sockets[name], "server namespace disconnect", now)
        self.send([_goodbye(name) for name in names], now)
        self._hub.close_client(self, now)

    def closed(self, reason: str, now: Millis) -> None:
        self._reader.reset()
        self._outbox.take_all()
        for name in list(self._joining):
            self._stop_joining(name)
        for socket in list(self.sockets.values()):
            self._leave(socket, reason, now, may_return=reason != PARSE_ERROR)
        self._hub.closed(self)

    def _leave(self, socket: Socket, reason: str, now: Millis, *, may_return: bool = False) -> None:
        self.release(socket)
        socket.namespace.disconnected(socket, reason, now, may_return=may_return)

    def release(self, socket: Socket) -> None:
        """The socket is not this client's any more."""
        del self.sockets[socket.name]
        socket.source = None
        socket.carrier = None


def _goodbye(namespace: str) -> bytes:
    return wire.encode(Packet(PacketType.DISCONNECT, namespace))


def _reply(socket: Socket, pid: str | None) -> bytes:
    """Return the CONNECT that answers a CONNECT."""
    data = {"sid": socket.id} if pid is None else {"sid": socket.id, "pid": pid}
    return wire.encode(Packet(PacketType.CONNECT, socket.name, data=data))
