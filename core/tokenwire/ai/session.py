"""One client's session: its capability, its streams, the connection that it has now.

Rules of this file: the session is known by the public part of its clientId (`capability.py`).
Streams take turns by bytes, so that none holds the others up. The session outlives its connection;
it never has two. Where its client can come back by itself, every event says what has been handed
over so far (`offset.py`): what was not received is then made again from the streams.
"""

from typing import Protocol

from tokenwire.ai import offset as offsets
from tokenwire.ai.events import Event
from tokenwire.ai.limits import Allowance
from tokenwire.ai.offset import Offset
from tokenwire.ai.stream import Stream
from tokenwire.socketio.recovery import Journal
from tokenwire.socketio.socket import Socket
from tokenwire.types import Millis

_MOST_SUPERSEDED = 64
_TURN_BYTES = 8 * 1024  # what an event takes beyond its turn, the stream's next turns lack


class Listener(Protocol):
    """What the session tells (`pressure.py`)."""

    def refused(self, session: "AiSession", now: Millis) -> None:
        """The client's socket takes no more for now."""
        ...

    def drained(self, session: "AiSession", now: Millis) -> None:
        """Fewer tokens wait than before."""
        ...


class AiSession:
    """A session of the AI protocol."""

    __slots__ = (
        "_control",
        "_gone",
        "_last_number",
        "_listener",
        "_offset_start",
        "_superseded",
        "_turns",
        "_unfinished",
        "allowance",
        "arrived",
        "behind",
        "paused",
        "pid_key",
        "previous",
        "public",
        "socket",
        "socket_id",
        "streams",
        "successor",
        "taken_over_at",
        "told",
    )

    def __init__(
        self,
        public: str,
        socket: Socket,
        listener: Listener,
        control: Journal | None,
        allowance: Allowance,
    ) -> None:
        """
        Args:
            public: the public part of the clientId.
            socket: its connection.
            listener: is told.
            control: keeps the events that name no stream; None: the client cannot come back by
                itself, and gets no offsets.
            allowance: how much it may ask for.
        """
        self.public = public
        self.allowance = allowance
        self._listener = listener
        self.socket: Socket | None = socket
        self.socket_id = socket.id
        self.pid_key = socket.pid_key
        self.arrived = 0
        """The place of its connection among all that came."""
        self.streams: dict[str, Stream] = {}
        """By the client's streamId: running, or ended and within the grace period."""
        self.paused: dict[str, Stream] = {}
        """The streams whose model is paused for this client."""
        self.behind = False
        """True: an episode of backpressure: the client has not caught up."""
        self.told = False
        """True: it was told of that."""
        self.successor: AiSession | None = None
        """The session that took this one over, until the client has shown that it knows."""
        self.previous: AiSession | None = None
        """The session that this one took over, until then."""
        self.taken_over_at = Millis(0)
        """When that was."""
        self._turns: list[Stream] = []
        self._control = control
        self._offset_start = b"" if control is None else b',"%b.' % control.name.encode()
        self._last_number = 0
        self._gone = 0
        """The last of the streams that are not kept any more, by its number."""
        self._superseded: tuple[int, ...] = ()
        """The last ones that a newer stream of the same name has replaced, by their numbers."""
        self._unfinished: dict[int, Stream] = {}
        """By their numbers: those of which something is still to come."""

    def is_heard(self) -> bool:
        """Return True if what is said now reaches the client, now or when it comes back."""
        return self.socket is not None or self._control is not None

    def active_streams(self) -> int:
        return sum(stream.running for stream in self.streams.values())

    def waiting(self) -> int:
        """Return the number of tokens of all streams that wait."""
        waiting = 0
        for stream in self._turns:
            waiting += stream.waiting()
        return waiting

    def is_owed(self) -> bool:
        """Return True if there is something that the client was not handed."""
        return any(stream.has_output() for stream in self.streams.values())

    def has_received(self, stream: Stream) -> bool:
        """Return True if the client is known to have all of a stream that was handed over."""
        return self.socket is not None and self.socket.has_received(stream.over_at)

    def unsent_bytes(self) -> int:
        size = 0
        for stream in self._turns:
            size += stream.unsent_bytes()
        return size

    def bytes_held(self) -> int:
        """Return the size of what is kept of the events that name no stream."""
        return 0 if self._control is None else self._control.size

    def adopt(self, stream: Stream) -> None:
        """The stream is one of this session's from now on."""
        self._last_number += 1
        stream.number = self._last_number
        self.streams[stream.name] = stream
        if not stream.fully_handed():
            self._unfinished[stream.number] = stream

    def supersede(self, stream: Stream) -> None:
        """The client has another stream of this name: nobody needs to come back to this one."""
        self._superseded = (*self._superseded, stream.number)[-_MOST_SUPERSEDED:]

    def drop(self, stream: Stream) -> None:
        """The stream is not this session's any more."""
        if stream.number not in self._superseded:
            self._gone = max(self._gone, stream.number)
        self.drop_turn(stream)
        self._unfinished.pop(stream.number, None)
        del self.streams[stream.name]

    def take_turn(self, stream: Stream) -> bool:
        """The stream has something for the client. Return True if that can go out now."""
        if not stream.in_turn and stream.is_ready():
            stream.in_turn = True
            self._turns.append(stream)
            self._unfinished[stream.number] = stream
        return self.socket is not None and self.socket.wake()

    def drop_turn(self, stream: Stream) -> None:
        """The stream has nothing more for this session's client."""
        if stream.in_turn:
            stream.in_turn = False
            self._turns.remove(stream)

    def hold(self) -> None:
        """All that the client was not handed waits from now on."""
        for stream in self._turns:
            stream.hold()

    def send(self, event: Event, now: Millis, *, keep: bool = True) -> None:
        """Send an event that may overtake the streams.

        Args:
            event: names no stream, or answers a request about one.
            now: the time.
            keep: a client that can come back by itself is to have it also then.
        """
        body = event.encode()
        if self._control is not None:
            if keep:
                self._control.keep([body])
            body = body[:-1] + self.offset() + b"]"
        if self.socket is not None:
            self.socket.send_event(body, now)

    def retire(self) -> None:
        """The session was taken over: nothing is kept for its client any more."""
        self._control = None

    # -- connection state recovery -----------------------------------------------------------------

    def offset(self) -> bytes:
        """Return what has been handed over, as one more argument of an event."""
        assert self._control is not None
        return self._offset_at(self._control.last)

    def offset_around(self, stream: Stream) -> tuple[bytes, bytes]:
        """Return the same in two parts: between them stands the last token of a stream."""
        assert self._control is not None
        before, after = self._offset_head(self._control.last), b""
        for other in self._unfinished.values():
            if other is stream:
                before += after + b".%d." % stream.number
                after = b".%d" % stream.lane_at
            else:
                after += b".%d.%d.%d" % other.position
        return before, after + b'"'

    def _offset_at(self, control: int) -> bytes:
        text = self._offset_head(control)
        for stream in self._unfinished.values():
            if not stream.fully_handed():
                text += b".%d.%d.%d" % stream.position
        return text + b'"'

    def _offset_head(self, control: int) -> bytes:
        return b"%b%d.%d" % (self._offset_start, control, self._last_number)

    def parse(self, value: object) -> Offset | None:
        """Return the offset of a client, or None: what it lacks cannot be told, or is gone."""
        if self._control is None:
            return None
        offset = offsets.parse(value, self._control.name)
        if offset is None or offset.streams > self._last_number:
            return None
        if self._control.after(offset.control) is None:
            return None
        kept = {stream.number for stream in self.streams.values()}
        if self._gone > offset.streams or offset.positions.keys() - kept - {*self._superseded}:
            return None  # a stream that it has not seen to its end is not kept any more
        for stream in self.streams.values():
            position = offset.positions.get(stream.number)
            if position is not None and not stream.knows(*position):
                return None
        return offset

    def recover(self, offset: Offset, socket: Socket, hello: Event, now: Millis) -> list[Stream]:
        """Give a client that has come back its new socket, and what it lacks.

        Returns:
            The streams of which it lacks more than is kept.
        """
        assert self._control is not None
        self.socket = socket
        gaps: list[Stream] = []
        for stream in self.streams.values():
            position = offset.position(stream.number)
            if position is None:
                stream.recover_all()
                self.drop_turn(stream)
                self._unfinished.pop(stream.number, None)
            elif not stream.recover(*position):
                gaps.append(stream)
            self.take_turn(stream)
        missed = self._control.after(offset.control) or []
        for number, (body,) in enumerate([[hello.encode()], *missed], offset.control):
            socket.send_event(body[:-1] + self._offset_at(number) + b"]", now)
        return gaps

    # -- what the socket pulls (socketio.socket.Source) --------------------------------------------

    def has_events(self) -> bool:
        return bool(self._turns)

    def pull_events(self, out: list[bytes], budget: int, now: Millis) -> int:
        turns = self._turns
        assert self.socket is not None
        head = self.socket.head
        offsets = self if self._control is not None else None
        used = 0
        while turns and used < budget:
            stream = turns[0]
            if stream.turn_bytes <= 0:
                stream.turn_bytes += _TURN_BYTES
            size = stream.pull(out, head, min(budget - used, stream.turn_bytes), offsets)
            stream.turn_bytes -= size
            used += size
            if stream.is_ready():
                if stream.turn_bytes <= 0:  # else: it goes on with its turn at the next pull
                    turns.append(turns.pop(0))
            else:
                stream.turn_bytes = min(0, stream.turn_bytes)
                turns.pop(0)
                stream.in_turn = False
                if stream.fully_handed():
                    stream.over_at = now
                    self._unfinished.pop(stream.number, None)
        if self.paused or self.behind:
            self._listener.drained(self, now)
        return used

    def refused(self, now: Millis) -> None:
        self._listener.refused(self, now)
