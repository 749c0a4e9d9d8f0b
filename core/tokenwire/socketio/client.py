"""One Socket.IO client: what it has joined, what waits for it.

Rules of this file: a client joins each namespace by a CONNECT; any packet for a namespace that it
has not joined closes the whole connection, as every other misuse does (RemoteProtocolError, raised
to the Engine.IO layer). What the layers above send is either an event, queued here and bounded, or
comes from a socket's `source`, pulled only when the transport has room.
"""

from collections import deque
from typing import Protocol

import msgspec

from tokenwire.config import Config
from tokenwire.engineio.session import ENDED, EngineSession
from tokenwire.errors import RemoteProtocolError
from tokenwire.socketio.binary import PacketReader, encode_ack, encode_event
from tokenwire.types import Millis
from tokenwire.wire import socketio as wire
from tokenwire.wire.socketio import Packet, PacketType

_BURST = 16  # times what may wait: how much may be queued before the transport was asked


class Source(Protocol):
    """Where a socket's streamed events come from."""

    def has_events(self) -> bool: ...

    def pull_events(self, out: list[bytes], budget: int, now: Millis) -> int:
        """Append Socket.IO packets to `out`, about `budget` bytes of them. Return how many."""
        ...

    def refused(self, now: Millis) -> None:
        """What was not pulled was offered to the transport, and refused."""
        ...


class Namespace(Protocol):
    """What handles one namespace."""

    def connect(self, socket: "Socket", auth: object, now: Millis) -> dict[str, object] | None:
        """A client asks to join. Return None to let it, or the CONNECT_ERROR's object."""
        ...

    def connected(self, socket: "Socket", auth: object, now: Millis) -> None:
        """The client has joined; its CONNECT reply is queued."""
        ...

    def event(
        self, socket: "Socket", name: str | int, args: list[object], ack_id: int | None, now: Millis
    ) -> None: ...

    def acknowledged(self, socket: "Socket", ack_id: int, args: list[object]) -> None: ...

    def disconnected(self, socket: "Socket", reason: str, now: Millis) -> None: ...


class Hub(Protocol):
    """What a client needs of the server that opened it (`server.py`)."""

    config: Config
    limits: wire.Limits

    def namespace(self, name: str) -> Namespace | None: ...

    def new_id(self) -> str: ...

    def joined(self, client: "Client", socket: "Socket") -> None: ...

    def left(self, client: "Client", socket: "Socket") -> None: ...

    def closed(self, client: "Client") -> None: ...

    def close_client(self, client: "Client", now: Millis) -> None: ...

    def abort_client(self, client: "Client", now: Millis) -> None: ...


class Socket:
    """One client in one namespace."""

    __slots__ = (
        "_client",
        "_next_ack",
        "_waiting_acks",
        "head",
        "id",
        "name",
        "namespace",
        "source",
    )

    def __init__(self, client: "Client", socket_id: str, name: str, namespace: Namespace) -> None:
        self._client = client
        self.id = socket_id
        self.name = name
        self.namespace = namespace
        self.head = wire.event_head(name)
        self.source: Source | None = None
        self._next_ack = 0
        self._waiting_acks: dict[int, None] = {}

    @property
    def user_agent(self) -> str:
        """The User-Agent of the handshake, empty if there was none."""
        return self._client.session.handshake.header("user-agent") or ""

    def writable(self) -> bool:
        """Return True if what is queued now can go out now."""
        return self._client.session.writable()

    def wake(self) -> None:
        """The socket's source has events."""
        self._client.session.wake()

    def send_event(self, body: bytes, now: Millis) -> None:
        """Queue an event given as its JSON array."""
        self._client.send([self.head + body], now)

    def emit(self, args: list[object], now: Millis, *, want_ack: bool = False) -> int | None:
        """Queue an event given as its name and arguments; bytes become attachments.

        Returns:
            The id under which the client's acknowledgement will come, if one is wanted.
        """
        ack_id = self._next_ack if want_ack else None
        messages = encode_event(self.name, ack_id, args)
        if ack_id is not None:  # counted once the event could be encoded
            self._next_ack += 1
            self._waiting_acks[ack_id] = None
        self._client.send(messages, now)
        return ack_id

    def acknowledge(self, ack_id: int, args: list[object], now: Millis) -> None:
        """Answer an event that came with an ack id."""
        self._client.send(encode_ack(self.name, ack_id, args), now)

    def takes_ack(self, ack_id: int) -> bool:
        """Return True once for an id that `emit` gave out."""
        if ack_id in self._waiting_acks:
            del self._waiting_acks[ack_id]
            return True
        return False

    def disconnect(self, now: Millis, *, close: bool = False) -> None:
        """Send a DISCONNECT and leave; with `close` the transport closes behind it."""
        if close:
            self._client.close(now)
        else:
            self._client.disconnect(self, now)


class Client:
    """The Socket.IO side of one Engine.IO session."""

    __slots__ = ("_hub", "_queue", "_queued_bytes", "_reader", "session", "sockets")

    def __init__(self, session: EngineSession, hub: Hub) -> None:
        self.session = session
        self.sockets: dict[str, Socket] = {}
        self._hub = hub
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._reader = PacketReader(hub.limits, hub.config.max_payload)

    # -- to the client -----------------------------------------------------------------------------

    def send(self, packets: list[bytes], now: Millis) -> None:
        """Queue the messages of one packet. A client that lets too much wait is dropped.

        One packet may be larger than what may wait: then nothing else waits.
        """
        if self.session.state in ENDED:
            return
        size = sum(map(len, packets))
        limit = self._hub.config.outbox_bytes
        if self.session.writable():  # it was not offered all of this yet: a burst, not a backlog
            limit *= _BURST
        if self._queue and self._queued_bytes + size > limit:
            self._hub.abort_client(self, now)
            return
        self._queue.extend(packets)
        self._queued_bytes += size
        self.session.wake()

    def has_output(self) -> bool:
        if self._queue:
            return True
        for socket in self.sockets.values():
            if socket.source is not None and socket.source.has_events():
                return True
        return False

    def pull(self, out: list[bytes], budget: int, now: Millis) -> None:
        while self._queue and budget > 0:
            packet = self._queue.popleft()
            self._queued_bytes -= len(packet)
            budget -= len(packet)
            out.append(packet)
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
        words = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        return words

    # -- from the client ---------------------------------------------------------------------------

    def receive(self, message: bytes, now: Millis) -> None:
        packet = self._reader.read(message)
        if packet is None:
            self._joined(self._reader.unfinished)
        else:
            self._dispatch(packet, now)

    def _joined(self, packet: Packet) -> Socket:
        socket = self.sockets.get(packet.namespace)
        if socket is None:
            raise RemoteProtocolError("a packet for a namespace that was not joined")
        return socket

    def _dispatch(self, packet: Packet, now: Millis) -> None:
        if packet.type is PacketType.CONNECT:
            self._connect(packet, now)
            return
        socket = self._joined(packet)
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

    def _connect(self, packet: Packet, now: Millis) -> None:
        if packet.namespace in self.sockets:
            raise RemoteProtocolError("a second CONNECT to a namespace")
        namespace = self._hub.namespace(packet.namespace)
        if namespace is None:
            self._refuse(packet.namespace, {"message": "Invalid namespace"}, now)
            return
        socket = Socket(self, self._hub.new_id(), packet.namespace, namespace)
        auth = {} if packet.data is msgspec.UNSET else packet.data
        refusal = namespace.connect(socket, auth, now)
        if refusal is not None:
            self._refuse(packet.namespace, refusal, now)
            return
        reply = Packet(PacketType.CONNECT, packet.namespace, data={"sid": socket.id})
        self.send([wire.encode(reply)], now)
        if self.session.state in ENDED:  # dropped as too slow: it has joined nothing
            return
        self.sockets[packet.namespace] = socket
        self._hub.joined(self, socket)
        namespace.connected(socket, auth, now)

    def _refuse(self, namespace: str, error: dict[str, object], now: Millis) -> None:
        packet = Packet(PacketType.CONNECT_ERROR, namespace, data=error)
        self.send([wire.encode(packet)], now)

    # -- ends --------------------------------------------------------------------------------------

    def disconnect(self, socket: Socket, now: Millis) -> None:
        """Tell the client that it is out of a namespace."""
        if self.sockets.get(socket.name) is socket:
            self.send([wire.encode(Packet(PacketType.DISCONNECT, socket.name))], now)
            if self.sockets.get(socket.name) is socket:  # else: it was dropped as too slow
                self._leave(socket, "server namespace disconnect", now)

    def close(self, now: Millis) -> None:
        """Leave every namespace, then close the transport behind what is queued."""
        for socket in list(self.sockets.values()):
            self.disconnect(socket, now)
        self._hub.close_client(self, now)

    def closed(self, reason: str, now: Millis) -> None:
        self._reader.reset()
        self._queue.clear()
        for socket in list(self.sockets.values()):
            self._leave(socket, reason, now)
        self._hub.closed(self)

    def _leave(self, socket: Socket, reason: str, now: Millis) -> None:
        del self.sockets[socket.name]
        socket.source = None
        self._hub.left(self, socket)
        socket.namespace.disconnected(socket, reason, now)
