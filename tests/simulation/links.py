"""One socket between a client and the server: bytes on their way, and what goes wrong with them.

Rules of this file: each way is a queue, and an arrival takes what is at its head. The ends hear of
a loss each in its own time, or never: then their own timers have to tell.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from simulation.loop import Loop
from simulation.settings import LONGEST_STALL, WINDOW
from tokenwire.server import Server
from tokenwire.types import Peer


class Quality(NamedTuple):
    """What a link is like."""

    latency: int
    rate: float
    """Bytes in a millisecond."""
    window: int
    """How many bytes the server's end takes before it is full."""
    chunk: int
    """The most bytes of an arrival."""


HEALTHY = Quality(2, 1_000, 16_384, 4_096)


def draw_quality(loop: Loop) -> Quality:
    draw = loop.draw
    return Quality(
        draw.choice((0, 1, 5, 20, 80)),
        draw.choice((1.5, 4, 20, 200, 200)),
        draw.choice((700, 1_500, 4_096, WINDOW)),
        draw.choice((60, 400, 1_500, 4_096)),
    )


class Way:
    """One direction."""

    def __init__(
        self, loop: Loop, quality: Quality, deliver: Callable[[bytes, bool], None]
    ) -> None:
        self.quality = quality
        self.pushed = 0
        self.passed = 0
        self.dead = False
        """True: nothing arrives any more."""
        self.held = False
        """True: the receiver does not read."""
        self.stalled_until = 0
        self._loop = loop
        self._deliver = deliver
        self._data = bytearray()
        self._end = False
        self._busy = False

    def push(self, data: bytes, *, end: bool = False) -> None:
        self.pushed += len(data)
        if not self.dead:
            self._data += data
            self._end |= end
            self._wake(self.quality.latency)

    def release(self) -> None:
        """The receiver reads again."""
        self.held = False
        self._wake(0)

    def _wake(self, span: float) -> None:
        if not self._busy and not self.held and (self._data or self._end):
            self._busy = True
            self._loop.later(span, self._arrive)

    def _arrive(self) -> None:
        loop = self._loop
        self._busy = False
        if self.dead or self.held:
            return
        if loop.now < self.stalled_until:
            self._wake(self.stalled_until - loop.now)
            return
        most = 5 if loop.chance(0.05) else self.quality.chunk
        size = min(len(self._data), loop.draw.randint(1, most))
        piece = bytes(self._data[:size])
        del self._data[:size]
        self.passed += size
        last = self._end and not self._data
        self.dead |= last
        self._wake(1 + size / self.quality.rate)
        self._deliver(piece, last)


class Host(Protocol):
    """Who runs the server (`node.py`)."""

    loop: Loop
    server: Server

    def act(self, do: Callable[[], None]) -> None:
        """Do something to the server, and let it react."""
        ...


class Pipe:
    """One socket."""

    def __init__(self, node: Host, quality: Quality, address: str) -> None:
        loop = node.loop
        self.node = node
        self.loop = loop
        self.conn = node.server.connected(Peer(address, 1_234), loop.now)
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_lost: Callable[[], None] = lambda: None
        self.read = 0
        """How many bytes the client has read."""
        self.client_open = True
        self.server_open = True
        self.blocked = False
        """True: the server was told that the socket is full."""
        self.closing = False
        """True: the server has written the end."""
        self.watched: list[tuple[int, Callable[[], None]]] = []
        """What is told when a request for a stream that is not there has reached the server: at
        which byte it ends."""
        self.up = Way(loop, quality, self._arrives_up)
        self.down = Way(loop, quality, self._arrives_down)

    # -- the client's end --------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        if self.client_open:
            self.up.push(data)

    def hang_up(self) -> None:
        """Close it. The server hears that after what was sent, or late, or never."""
        if not self.client_open:
            return
        self.client_open = False
        kind = self.loop.draw.randrange(4)
        if kind < 2:
            self.up.push(b"", end=True)
        elif kind == 2:
            self.reset(None, self.loop.draw.choice((0, 1, 30, 1_000, 4_000)))
        else:
            self.reset(None, None)

    # -- the server's end --------------------------------------------------------------------------

    def flush(self) -> None:
        """The server wants to write: take what there is room for."""
        server, loop = self.node.server, self.loop
        while self.server_open and not (self.blocked or self.closing):
            room = self.down.quality.window - (self.down.pushed - self.down.passed)
            if room <= 0:
                self.blocked = True
                server.write_blocked(self.conn, loop.now)
                return
            chunk = server.data_to_send(self.conn, room, loop.now)
            self.closing = chunk.end
            self.down.push(chunk.data, end=chunk.end)
            if not chunk.data:
                return

    def abort(self) -> None:
        """The server drops it."""
        self.reset(self.up.quality.latency, None)
        self.server_open = False
        self.node.server.connection_lost(self.conn, self.loop.now)

    def _arrives_up(self, data: bytes, last: bool) -> None:
        if not self.server_open:
            return
        self.loop.note(f"pipe {self.conn}", f"{len(data)} bytes up{' and the end' * last}")
        server = self.node.server
        if data:
            before = self._not_found() if self.watched else 0
            self.node.act(lambda: server.receive_data(self.conn, data, self.loop.now))
            while self.watched and self.watched[0][0] <= self.up.passed:
                _, tell = self.watched.pop(0)
                if self._not_found() > before:  # else its session is over
                    tell()
        if last and self.server_open:
            self.node.act(lambda: server.receive_eof(self.conn, self.loop.now))

    def _not_found(self) -> int:
        return self.node.server.stats().errors.get("stream_not_found", 0)

    def _arrives_down(self, data: bytes, last: bool) -> None:
        room = self.down.quality.window - (self.down.pushed - self.down.passed)
        if last:
            self._server_lost()
        elif self.blocked and room >= self.down.quality.window // 2:
            self.blocked = False
            self.node.act(self.flush)
        if self.client_open:
            self.read += len(data)
            self.on_data(data)
            if last:
                self._client_lost()

    # -- what goes wrong ---------------------------------------------------------------------------

    def stall(self, span: int, *, up: bool, down: bool) -> None:
        """Nothing arrives for a while."""
        until = self.loop.now + min(span, LONGEST_STALL)
        for way, stalls in ((self.up, up), (self.down, down)):
            if stalls:
                way.stalled_until = until

    def reset(self, client_hears: int | None, server_hears: int | None) -> None:
        """What is on its way is lost. Each end hears of it after a span, or not at all."""
        self.up.dead = self.down.dead = True
        if client_hears is not None:
            self.loop.later(client_hears, self._client_lost)
        if server_hears is not None:
            self.loop.later(server_hears, self._server_lost)

    def heal(self) -> None:
        """Nothing goes wrong any more, but for what has."""
        for way in (self.up, self.down):
            way.quality = HEALTHY._replace(window=way.quality.window)
            way.stalled_until = 0

    def _client_lost(self) -> None:
        if self.client_open:
            self.client_open = False
            self.on_lost()

    def _server_lost(self) -> None:
        if self.server_open:
            self.server_open = False
            self.loop.note(f"pipe {self.conn}", "lost for the server")
            self.node.act(lambda: self.node.server.connection_lost(self.conn, self.loop.now))
