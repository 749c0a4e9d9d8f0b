"""One client in one namespace: what it is sent, what it has been asked.

Rules of this file: a socket may outlive its client (`carrier` is None then) if it has a journal: it
keeps its id, its rooms and what it misses until its client is back or its time is over. What needs
an answer is not kept, and a volatile event is dropped.
"""

import enum
from typing import NamedTuple, Protocol

from tokenwire.engineio.session import EngineSession
from tokenwire.socketio.binary import Body, encode_ack, encode_event
from tokenwire.socketio.guesses import Guesser
from tokenwire.socketio.recovery import Journal, with_last
from tokenwire.types import Millis
from tokenwire.wire import socketio as wire


class Source(Protocol):
    """Where a socket's streamed events come from."""

    def has_events(self) -> bool: ...

    def pull_events(self, out: list[bytes], budget: int, now: Millis) -> int:
        """Append Socket.IO packets to `out`, about `budget` bytes of them. Return how many."""
        ...

    def refused(self, now: Millis) -> None:
        """What was not pulled was offered to the transport, and refused."""
        ...


class Carrier(Protocol):
    """The client whose socket it is (`client.py`)."""

    session: EngineSession
    guesser: Guesser

    def send(self, messages: list[bytes], now: Millis) -> None: ...

    def disconnect(self, socket: "Socket", now: Millis) -> None: ...

    def close(self, now: Millis) -> None: ...

    def release(self, socket: "Socket") -> None:
        """The socket is another client's from now on."""
        ...

    def abort(self, reason: str, now: Millis) -> None:
        """Drop the transport without writing what waits."""
        ...


class Later(enum.Enum):
    """The answer to a CONNECT that comes later."""

    LATER = enum.auto()


LATER = Later.LATER


class Recovered(NamedTuple):
    """A socket that comes back."""

    socket: "Socket"
    pid: str
    missed: list[bytes]


class Namespace(Protocol):
    """What handles one namespace."""

    @property
    def recovers(self) -> bool:
        """Whether sockets are given pids here."""
        ...

    def recover(self, name: str, auth: object, now: Millis) -> Recovered | None:
        """Take the socket that a CONNECT's payload names by its pid from its old connection."""
        ...

    def connect(
        self, socket: "Socket", auth: object, now: Millis
    ) -> dict[str, object] | Later | None:
        """A client asks to join. Return None to let it, the CONNECT_ERROR's object, or LATER."""
        ...

    def admit(self, socket: "Socket", auth: object) -> str | None:
        """Give a socket that is let in a pid, by which it can come back; None: it cannot."""
        ...

    def connected(self, socket: "Socket", auth: object, now: Millis, *, recovered: bool) -> None:
        """The client has joined; its CONNECT reply is queued."""
        ...

    def event(
        self, socket: "Socket", name: str | int, args: list[object], ack_id: int | None, now: Millis
    ) -> None: ...

    def acknowledged(self, socket: "Socket", ack_id: int, args: list[object]) -> None: ...

    def received(self, socket: "Socket") -> None:
        """The client has answered a ping: `has_received` may say more than before."""
        ...

    def disconnected(self, socket: "Socket", reason: str, now: Millis, *, may_return: bool) -> None:
        """The client has left, or is lost: then the socket may return."""
        ...


class Socket:
    """A client's place in a namespace."""

    __slots__ = (
        "_next_ack",
        "_waiting_acks",
        "address",
        "auth",
        "carrier",
        "head",
        "id",
        "journal",
        "name",
        "namespace",
        "pid_key",
        "source",
    )

    def __init__(
        self, carrier: Carrier | None, socket_id: str, name: str, namespace: Namespace
    ) -> None:
        self.id = socket_id
        self.name = name
        """The namespace's."""
        self.namespace = namespace
        self.carrier = carrier
        """The client; None: it is away, and may come back."""
        self.address = None if carrier is None else carrier.session.address
        """Whom it counts for, also while it is away; None: this machine itself."""
        self.head = wire.event_head(name)
        self.source: Source | None = None
        self.journal: Journal | None = None
        """What it was sent lately; None: it has none to come back to."""
        self.pid_key = b""
        """What is kept of its pid; empty: it has none."""
        self.auth: object = None
        """The payload with which it was let in, if that will be wanted."""
        self._next_ack = 0
        self._waiting_acks: dict[int, None] = {}

    @property
    def user_agent(self) -> str:
        """The User-Agent of the handshake, empty if there was none."""
        if self.carrier is None:
            return ""
        return self.carrier.session.user_agent

    def has_received(self, since: Millis) -> bool:
        """Return True if its client is known to have what it was handed at that time or before."""
        return self.carrier is not None and since < self.carrier.session.received_until

    def writable(self) -> bool:
        """Return True if what is queued now can go out now."""
        return self.carrier is not None and self.carrier.session.writable()

    def wake(self) -> bool:
        """The socket's source has events. Return `writable`."""
        return self.carrier is not None and self.carrier.session.wake()

    def send_event(self, body: bytes, now: Millis) -> None:
        """Queue an event given as its JSON array."""
        self._send([self.head + body], now)

    def emit(
        self, body: Body, now: Millis, *, volatile: bool = False, made: list[bytes] | None = None
    ) -> None:
        """Send an event.

        Args:
            body: its name and arguments.
            now: the time.
            volatile: drop it if it cannot go out now.
            made: `body` as the messages of an event in this namespace, if somebody has made them.
        """
        if volatile and not self.writable():
            return
        journal = self.journal
        if journal is None:
            self._send(made or encode_event(self.name, body), now)
            return
        number = journal.last if volatile else journal.last + 1
        messages = encode_event(self.name, with_last(body, journal.offset(number)))
        if not volatile:
            journal.keep(messages)
        self._send(messages, now)

    def ask(self, body: Body, now: Millis) -> int:
        """Send an event that wants an acknowledgement. Return the id under which it will come."""
        ack_id = self._next_ack
        self._next_ack += 1
        if self.carrier is not None:
            self._waiting_acks[ack_id] = None
            self._send(encode_event(self.name, body, ack_id), now)
        return ack_id

    def acknowledge(self, ack_id: int, body: Body, now: Millis) -> None:
        """Answer an event that came with an ack id, if who asked is still there."""
        self._send(encode_ack(self.name, body, ack_id), now)

    def _send(self, messages: list[bytes], now: Millis) -> None:
        if self.carrier is not None:
            self.carrier.send(messages, now)

    def disconnect(self, now: Millis, *, close: bool = False) -> None:
        """Leave, and send a DISCONNECT; with `close` the transport closes behind it."""
        if self.carrier is None:
            return
        if close:
            self.carrier.close(now)
        else:
            self.carrier.disconnect(self, now)

    def takes_ack(self, ack_id: int) -> bool:
        """Return True once for an id that `ask` gave out."""
        if ack_id in self._waiting_acks:
            del self._waiting_acks[ack_id]
            return True
        return False

    def waits_for(self, ack_id: int) -> bool:
        """Return True if the acknowledgement may still come."""
        return ack_id in self._waiting_acks

    def end_acks(self) -> list[int]:
        """No acknowledgement will come any more: return the ids that waited."""
        ended = list(self._waiting_acks)
        self._waiting_acks.clear()
        return ended
