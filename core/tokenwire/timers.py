"""Every timer of the core: an enum of kinds and a table of deadlines.

Rules of this file: one deadline per (kind, key); setting it again moves it; `next` is pure; `due`
takes out only what is due. Cancelled entries stay in the heap until they surface or outnumber the
live ones, so that moving a timer costs a push and nothing else.
"""

import enum
import heapq
from collections.abc import Iterator

from tokenwire.types import Deadline, Millis


class Timer(enum.Enum):
    """What a deadline is for. The value is the `Deadline.reason`."""

    __hash__ = object.__hash__  # Enum's own is a call in Python, at each look at a timer

    HTTP_HEADERS = "http headers"  # a request's headers are not whole in time
    HTTP_BODY = "http body"  # a request's body is not whole in time
    HTTP_WRITE = "http write"  # the socket takes nothing of an answer
    HTTP_KEEP_ALIVE = "http keep-alive"  # no further request came
    CLOSE = "close"  # the peer does not answer our close frame, or does not read the end
    UNREAD = "engine.io unread close"  # a WebSocket takes nothing, its close neither
    SLOW = "engine.io slow consumer"  # a transport takes nothing of what it is offered
    PING = "engine.io ping"  # time to ping
    PONG = "engine.io pong"  # no pong came
    UPGRADE = "engine.io upgrade"  # a probe was not followed by an upgrade
    CLOSING = "engine.io closing"  # a closed polling session that no GET came to fetch
    CONNECT = "socket.io connect"  # no namespace was joined
    JOIN = "socket.io join"  # the program has not answered a CONNECT
    RECOVERY = "socket.io recovery"  # a socket that was away is not back
    UPSTREAM_PROBE = "model server probe"  # time to look what the model server offers
    UPSTREAM_SILENCE = "model silence"  # no first token, or nothing after it
    UPSTREAM_LINGER = "model linger"  # the stream is over, its response is not
    STREAM = "stream timeout"
    STREAM_FORGET = "stream forget"  # the grace period of an ended stream
    SESSION_FORGET = "session forget"  # RECONNECT_TIMEOUT after the connection was lost
    TRANSFER = "session transfer"  # an old clientId after its transfer
    PRESSURE = "backpressure notice"  # a reader is still slow: tell it
    PACE = "stream rate limit"  # the next tokens may go
    MEMORY = "memory"  # it was used up: has anybody read?
    RECONNECT = "client reconnect"  # time to try again
    ACK = "ack"  # no acknowledgement came
    SHUTDOWN = "shutdown"  # running streams have had their time


Key = int | str
_Entry = tuple[Millis, int, Timer, Key]


class Timers:
    """A table of deadlines."""

    __slots__ = ("_count", "_first", "_heap", "_live", "_next")

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._live: dict[tuple[Timer, Key], _Entry] = {}
        """The entry that counts: those that were moved or cleared stay in the heap for a while."""
        self._count = 0
        self._first = 0
        """The number of the entry of which `_next` tells."""
        self._next: Deadline | None = None

    def set(self, timer: Timer, key: Key, at: int) -> None:
        """Set or move the deadline of (timer, key)."""
        self._count += 1
        entry = self._live[timer, key] = (Millis(at), self._count, timer, key)
        heapq.heappush(self._heap, entry)
        self._prune()

    def clear(self, timer: Timer, key: Key) -> None:
        """Take the deadline of (timer, key) out, if there is one."""
        if self._live.pop((timer, key), None) is not None:
            self._prune()

    def is_set(self, timer: Timer, key: Key) -> bool:
        return (timer, key) in self._live

    def is_due(self, timer: Timer, key: Key, now: Millis) -> bool:
        """Return True if `due` would yield (timer, key)."""
        entry = self._live.get((timer, key))
        return entry is not None and entry[0] <= now

    def next(self) -> Deadline | None:
        """Return the earliest deadline."""
        if not self._heap:
            self._first, self._next = 0, None
            return None
        at, number, timer, _ = self._heap[0]
        if number != self._first:
            self._first, self._next = number, Deadline(at, timer.value)
        return self._next

    def due(self, now: Millis) -> Iterator[tuple[Timer, Key]]:
        """Take out and yield each (timer, key) that was due when this was called, in order."""
        last = self._count
        while self._heap and self._heap[0][0] <= now:
            _, number, timer, key = self._heap[0]
            if number > last:  # set by the handler of an earlier one: for the next call
                break
            del self._live[timer, key]
            self._prune()
            yield timer, key

    def _prune(self) -> None:
        heap = self._heap
        if len(heap) > 64 and len(heap) > 2 * len(self._live):
            self._heap = [entry for entry in heap if self._counts(entry)]
            heapq.heapify(self._heap)
            return
        while heap and not self._counts(heap[0]):
            heapq.heappop(heap)

    def _counts(self, entry: _Entry) -> bool:
        """Return True unless the entry was moved or cleared since."""
        _, number, timer, key = entry
        live = self._live.get((timer, key))
        return live is not None and live[1] == number
