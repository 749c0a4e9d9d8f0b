"""One Socket.IO client: what it has joined, what waits for it.

Rules of this file: a client joins each namespace by a CONNECT; any packet for a namespace that it
has not joined closes the whole connection, as every other misuse does (RemoteProtocolError, raised
to the Engine.IO layer). What the layers above send is either an event, queued here and bounded, or
comes from a socket's `source`, pulled only when the transport has room.
"""

from typing import Protocol

import msgspec

from tokenwire.config import Config
from tokenwire.engineio.outbox import Outbox
from tokenwire.engineio.session import ENDED, EngineSession
from tokenwire.errors import RemoteProtocolError
from tokenwire.socketio.binary import Assembler
from tokenwire.socketio.socket import LATER, Namespace, Socket
from tokenwire.types import Millis
from tokenwire.wire import Binary
from tokenwire.wire import socketio as wire
from tokenwire.wire.socketio import Packet, PacketType

_INVALID: dict[str, object] = {"message": "Invalid namespace"}  # the words of Node's server
_TOO_MANY: dict[str, object] = {"message": "Too many namespaces"}
_LATE: dict[str, object] = {"message": "Connection timed out"}


class Recovered(msgspec.Struct, frozen=True):
    """A socket that comes back."""

    socket: Socket
    pid: str
    missed: list[bytes]


class Hub(Protocol):
    """What a client needs of the server that opened it (`server.py`)."""

    config: Config
    limits: wire.Limits

    def namespace(self, name: str) -> Namespace | None: ...

    def new_id(self) -> str: ...

    def recover(self, name: str, auth: object, now: Millis) -> Recovered | None:
        """Return the socket that a CONNECT's payload names by its pid."""
        ...

    def new_pid(self, socket: Socket) -> str | None:
        """Give a new socket the means to come back; None: there are none."""
        ...

    def joining(self, client: "Client", socket: Socket, now: Millis) -> None:
        """The answer to a CONNECT comes later."""
        ...

    def not_joining(self, socket: Socket) -> None:
        """The CONNECT needs no answer any more."""
        ...

    def joined(self, client: "Client", socket: Socket) -> None: ...

    def left(self, socket: Socket, now: Millis, *, may_return: bool) -> None: ...

    def closed(self, client: "Client") -> None: ...

    def close_client(self, client: "Client", now: Millis) -> None: ...

    def abort_client(self, client: "Client", now: Millis) -> None: ...


class Client:
    """The Socket.IO side of one Engine.IO session."""

    __slots__ = ("_assembler", "_hub", "_joining", "_outbox", "session", "sockets")

    def __init__(self, session: EngineSession, hub: Hub) -> None:
        self.session = session
        self.sockets: dict[str, Socket] = {}
        self._hub = hub
        self._joining: dict[str, tuple[Socket, object]] = {}
        """Namespaces that have not answered the client's CONNECT: the socket-to-be, its payload."""
        self._outbox = Outbox(hub.config.outbox_bytes)
        self._assembler: Assembler | None = None

    # -- to the client -----------------------------------------------------------------------------

    def send(self, messages: list[bytes], now: Millis) -> None:
        """Queue the messages of one packet. A client that lets too much wait is dropped."""
        if self.session.state in ENDED:
            return
        if self._outbox.put(messages, writable=self.session.writable()):
            self.session.wake()
        else:
            self._hub.abort_client(self, now)

    def has_output(self) -> bool:
        if self._outbox:
            return True
        for socket in self.sockets.values():
            if socket.source is not None and socket.source.has_events():
                return True
        return False

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
        packet = wire.decode(message, self._hub.limits)
        if packet.attachments:
            self._joined(packet)
            self._assembler = Assembler(packet, self._hub.config.max_payload)
        else:
            self._dispatch(packet, packet.data, now)

    def _joined(self, packet: Packet) -> Socket:
        socket = self.sockets.get(packet.namespace)
        if socket is None:
            raise RemoteProtocolError("a packet for a namespace that was not joined")
        return socket

    def _dispatch(self, packet: Packet, data: object, now: Millis) -> None:
        if packet.type is PacketType.CONNECT:
            self._connect(packet, now)
            return
        socket = self._joined(packet)
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

    def _connect(self, packet: Packet, now: Millis) -> None:
        name = packet.namespace
        if name in self.sockets or name in self._joining:
            raise RemoteProtocolError("a second CONNECT to a namespace")
        namespace = self._hub.namespace(name)
        if namespace is None:
            self._refuse(name, _INVALID, now)
            return
        if len(self.sockets) + len(self._joining) >= self._hub.config.max_namespaces:
            self._refuse(name, _TOO_MANY, now)
            return
        auth = {} if packet.data is msgspec.UNSET else packet.data
        recovered = self._hub.recover(name, auth, now)
        if recovered is not None:
            self._return(recovered, auth, now)
            return
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
        self.send([_reply(socket, self._hub.new_pid(socket))], now)
        if self.session.state not in ENDED:  # else: dropped as too slow, it has joined nothing
            self._join(socket, auth, now, recovered=False)

    def _return(self, recovered: Recovered, auth: object, now: Millis) -> None:
        """A socket comes back: first what it missed, then the CONNECT reply, as Node's server."""
        socket = recovered.socket
        self.send([*recovered.missed, _reply(socket, recovered.pid)], now)
        if self.session.state not in ENDED:
            socket.carrier = self
            self._join(socket, auth, now, recovered=True)

    def _join(self, socket: Socket, auth: object, now: Millis, *, recovered: bool) -> None:
        self.sockets[socket.name] = socket
        self._hub.joined(self, socket)
        socket.namespace.connected(socket, auth, now, recovered=recovered)

    def answer(self, name: str, refusal: dict[str, object] | None, now: Millis) -> None:
        """Answer a CONNECT that waits: let the client in, or refuse."""
        socket, auth = self._joining.pop(name)
        self._hub.not_joining(socket)
        if refusal is None:
            self._admit(socket, auth, now)
        else:
            self._refuse(name, refusal, now)

    def answer_is_late(self, name: str, now: Millis) -> None:
        """The program has not answered a CONNECT in time."""
        self.answer(name, _LATE, now)

    def _refuse(self, namespace: str, error: dict[str, object], now: Millis) -> None:
        packet = Packet(PacketType.CONNECT_ERROR, namespace, data=error)
        self.send([wire.encode(packet)], now)

    # -- ends --------------------------------------------------------------------------------------

    def disconnect(self, socket: Socket, now: Millis) -> None:
        """Tell the client that it is out of a namespace."""
        self.send([wire.encode(Packet(PacketType.DISCONNECT, socket.name))], now)
        if self.sockets.get(socket.name) is socket:  # else: it was dropped as too slow
            self._leave(socket, "server namespace disconnect", now)

    def close(self, now: Millis) -> None:
        """Leave every namespace, then close the transport behind what is queued."""
        for socket in list(self.sockets.values()):
            self.disconnect(socket, now)
        self._hub.close_client(self, now)

    def closed(self, reason: str, now: Millis) -> None:
        self._assembler = None
        self._outbox.take_all()
        for socket, _ in self._joining.values():
            self._hub.not_joining(socket)
        self._joining.clear()
        for socket in list(self.sockets.values()):
            self._leave(socket, reason, now, may_return=reason != "parse error")
        self._hub.closed(self)

    def _leave(self, socket: Socket, reason: str, now: Millis, *, may_return: bool = False) -> None:
        del self.sockets[socket.name]
        socket.source = None
        socket.carrier = None
        self._hub.left(socket, now, may_return=may_return)
        socket.namespace.disconnected(socket, reason, now)


def _reply(socket: Socket, pid: str | None) -> bytes:
    """Return the CONNECT that answers a CONNECT."""
    data = {"sid": socket.id} if pid is None else {"sid": socket.id, "pid": pid}
    return wire.encode(Packet(PacketType.CONNECT, socket.name, data=data))
