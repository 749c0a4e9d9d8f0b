"""One client's session: its capability, its streams, the connection that it has now.

Rules of this file: the session is known by the public part of its clientId (`capability.py`).
Streams take turns by bytes, so that none holds the others up. The session outlives its connection;
it never has two.
"""

from collections import deque
from typing import Protocol

from tokenwire.ai.events import Event
from tokenwire.ai.stream import Stream
from tokenwire.socketio.socket import Socket
from tokenwire.types import Millis

_TURN_BYTES = 8 * 1024


class Listener(Protocol):
    """What the session tells the service (`service.py`)."""

    def refused(self, session: "AiSession", now: Millis) -> None:
        """The client's socket takes no more for now."""
        ...

    def drained(self, session: "AiSession", now: Millis) -> None:
        """Fewer tokens wait than before."""
        ...


class AiSession:
    """A session of the AI protocol."""

    __slots__ = (
        "_service",
        "_turns",
        "paused",
        "pressed",
        "previous",
        "public",
        "socket",
        "streams",
        "successor",
    )

    def __init__(self, public: str, socket: Socket, service: Listener) -> None:
        self.public = public
        self._service = service
        self.socket: Socket | None = socket
        self.streams: dict[str, Stream] = {}
        """By the client's streamId: running, or ended and within the grace period."""
        self.paused: dict[str, Stream] = {}
        """The streams whose model is paused for this client."""
        self.pressed = False
        """True: the client was told of the backpressure of this episode."""
        self.successor: AiSession | None = None
        """The session that took this one over, until the client has shown that it knows."""
        self.previous: AiSession | None = None
        """The session that this one took over, until then."""
        self._turns: deque[Stream] = deque()

    def writable(self) -> bool:
        return self.socket is not None and self.socket.writable()

    def active_streams(self) -> int:
        return sum(stream.running for stream in self.streams.values())

    def waiting(self) -> int:
        """Return the number of tokens of all streams that wait."""
        return sum(stream.waiting() for stream in self._turns)

    def unsent_bytes(self) -> int:
        return sum(stream.unsent_bytes() for stream in self._turns)

    def bytes_held(self) -> int:
        return sum(stream.log.size for stream in self.streams.values())

    def take_turn(self, stream: Stream) -> None:
        """The stream has something for the client."""
        if not stream.in_turn and stream.has_output():
            stream.in_turn = True
            self._turns.append(stream)
        if self.socket is not None:
            self.socket.wake()

    def drop_turn(self, stream: Stream) -> None:
        """The stream has nothing more for this session's client."""
        if stream.in_turn:
            stream.in_turn = False
            self._turns.remove(stream)

    def hold(self) -> None:
        """All that the client was not handed waits from now on."""
        for stream in self._turns:
            stream.waiting_until = stream.log.last_seq

    def send(self, event: Event, now: Millis) -> None:
        """Send an event that may overtake the streams. Without a connection, nobody hears it."""
        if self.socket is not None:
            self.socket.send_event(event.encode(), now)

    # -- what the socket pulls (socketio.socket.Source) --------------------------------------------

    def has_events(self) -> bool:
        return bool(self._turns)

    def pull_events(self, out: list[bytes], budget: int, now: Millis) -> int:
        turns = self._turns
        assert self.socket is not None
        head = self.socket.head
        used = 0
        while turns and used < budget:
            stream = turns[0]
            used += stream.pull(out, head, min(budget - used, _TURN_BYTES))
            if stream.has_output():
                turns.rotate(-1)
            else:
                turns.popleft()
                stream.in_turn = False
        if self.paused:
            self._service.drained(self, now)
        return used

    def refused(self, now: Millis) -> None:
        self._service.refused(self, now)
