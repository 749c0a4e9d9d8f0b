"""One Engine.IO session: what it is doing, what waits to be sent, whether its peer is alive.

Rules of this file: the state moves only along TRANSITIONS. Packets of the session's own (`control`)
go before the messages of the layer above, which are pulled, never pushed: nothing is queued here
that the layer above could still merge or take back. A closed session holds nothing.
"""

import enum
from typing import Protocol

from tokenwire.errors import RemoteProtocolError
from tokenwire.queue import Outputs
from tokenwire.timers import Timer, Timers
from tokenwire.types import ConnId, Headers, Millis
from tokenwire.wire import Binary
from tokenwire.wire import engineio as wire


class State(enum.Enum):
    POLLING = "polling"
    UPGRADING = "upgrading"  # polling still carries the session; a WebSocket has probed
    WEBSOCKET = "websocket"
    CLOSING = "closing"  # over, but a polling client has still to come and hear it
    CLOSED = "closed"


class Input(enum.Enum):
    PROBE = "probe"
    PROBE_LOST = "probe lost"
    UPGRADE = "upgrade"
    CLOSE = "close"  # and the peer can be told
    LOSE = "lose"  # and the peer cannot be told, or knows
    FETCH = "fetch"


TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.POLLING, Input.PROBE): State.UPGRADING,
    (State.POLLING, Input.UPGRADE): State.WEBSOCKET,  # Node takes `5` without a probe
    (State.POLLING, Input.CLOSE): State.CLOSING,
    (State.POLLING, Input.LOSE): State.CLOSED,
    (State.UPGRADING, Input.PROBE): State.UPGRADING,
    (State.UPGRADING, Input.PROBE_LOST): State.POLLING,
    (State.UPGRADING, Input.UPGRADE): State.WEBSOCKET,
    (State.UPGRADING, Input.CLOSE): State.CLOSING,
    (State.UPGRADING, Input.LOSE): State.CLOSED,
    (State.WEBSOCKET, Input.CLOSE): State.CLOSED,
    (State.WEBSOCKET, Input.LOSE): State.CLOSED,
    (State.CLOSING, Input.FETCH): State.CLOSED,
    (State.CLOSING, Input.LOSE): State.CLOSED,
}

ENDED = (State.CLOSING, State.CLOSED)

PARSE_ERROR = "parse error"
"""The reason of a session that ends because its peer broke a rule."""

SLOW_CONSUMER = "slow consumer"
"""The reason of a session whose peer takes nothing, or much less than it is sent."""


class Upper(Protocol):
    """The layer above one session."""

    def receive(self, message: bytes, now: Millis) -> None:
        """Take one message. RemoteProtocolError closes the session with "parse error"."""
        ...

    def closed(self, reason: str, now: Millis) -> None:
        """The session is over."""
        ...

    def has_output(self) -> bool: ...

    def has_queued(self) -> bool:
        """Return True if something that was sent was not pulled; what streams have not counted."""
        ...

    def received(self) -> None:
        """The peer has answered a ping: it has all that was pulled before `received_until`."""
        ...

    def pull(self, out: list[bytes], budget: int, now: Millis) -> None:
        """Append messages to `out`, about `budget` bytes of them."""
        ...

    def refused(self, now: Millis) -> None:
        """What was not pulled was offered to the socket, and refused: it waits from now on."""
        ...

    def last_words(self) -> list[bytes]:
        """Take out what must still be said before the transport closes (a DISCONNECT)."""
        ...


class WebSocket:
    """One open WebSocket: the transport of a session, or one that asks to become it."""

    __slots__ = ("blocked", "close_code", "conn", "control", "session")

    def __init__(self, conn: ConnId, session: "EngineSession | None") -> None:
        self.conn = conn
        self.session = session
        self.control: list[bytes] = []
        self.close_code: int | None = None
        """Not None: close with this code once `control` is written."""
        self.blocked = False
        """True: the socket would not take more when it was last offered something."""


class EngineSession:
    """One session. The engine (`engine.py`) owns it and its connections."""

    __slots__ = (
        "_outputs",
        "_pinged_at",
        "_timers",
        "address",
        "control",
        "heartbeat_interval",
        "heartbeat_timeout",
        "poll",
        "poll_blocked",
        "poll_headers",
        "poll_packets",
        "posting",
        "probe",
        "progress_at",
        "received_until",
        "sid",
        "state",
        "stuck",
        "upper",
        "user_agent",
        "ws",
    )

    __deletable__ = ["upper"]  # noqa: RUF012 - mypyc asks for this
    upper: Upper
    """There is none any more once the session is over."""

    def __init__(
        self,
        sid: str,
        user_agent: str,
        address: bytes | None,
        outputs: Outputs,
        timers: Timers,
        heartbeat: tuple[int, int],
    ) -> None:
        self.sid = sid
        self.user_agent = user_agent
        """That of the handshake; empty: there was none."""
        self.address = address
        """Whom it counts for (`address.py`); None: this machine itself."""
        self.state = State.POLLING
        self.poll: ConnId | None = None
        """The GET that waits for something to answer it with."""
        self.poll_headers: Headers = ()
        """The CORS headers of its answer."""
        self.posting: ConnId | None = None
        """The POST whose body is still coming."""
        self.poll_blocked = False
        """True: its socket takes nothing."""
        self.poll_packets: int | None = None
        """How many packets the client takes in one answer; None: any number."""
        self.ws: WebSocket | None = None
        self.probe: WebSocket | None = None
        self.control: list[bytes] = []
        self.progress_at = Millis(0)
        """When the peer's socket last took something."""
        self.received_until = Millis(0)
        """The peer has all that was handed over before this: it has answered a later ping."""
        self._pinged_at = Millis(0)
        """When a ping was last handed over behind all that had been sent."""
        self.stuck: ConnId | None = None
        """The connection whose socket has refused something, and not been asked again since."""
        self.heartbeat_interval, self.heartbeat_timeout = heartbeat
        self._outputs = outputs
        self._timers = timers

    @property
    def transport(self) -> str:
        return "polling" if self.ws is None else "websocket"

    def writable(self) -> bool:
        """Return True if what is queued now can go out now: the socket takes, or a GET waits."""
        if self.ws is not None:
            return not self.ws.blocked
        return self.poll is not None and not self.poll_blocked

    def move(self, what: Input) -> None:
        self.state = TRANSITIONS[self.state, what]

    def wake(self) -> bool:
        """There is something to send, or to answer a poll with. Return `writable`."""
        if self.ws is not None:
            self._outputs.want_write(self.ws.conn)
            return not self.ws.blocked
        if self.poll is not None:
            self._outputs.want_write(self.poll)
            return not self.poll_blocked
        return False

    # -- heartbeat: the server pings, the client answers -------------------------------------------

    def start_heartbeat(self, now: Millis) -> None:
        self._timers.clear(Timer.PONG, self.sid)
        self._timers.set(Timer.PING, self.sid, now + self.heartbeat_interval)

    def ping(self, now: Millis) -> None:
        """Time to ping."""
        self.control.append(wire.PING)
        self._timers.set(Timer.PONG, self.sid, now + self.heartbeat_timeout)
        self.wake()

    def pong_is_late(self, now: Millis) -> bool:
        """No pong came. A peer whose socket still takes bytes is slow, not gone: look later."""
        if self.progress_at + self.heartbeat_timeout > now:
            self._timers.set(Timer.PONG, self.sid, self.progress_at + self.heartbeat_timeout)
            return False
        return True

    # -- the reader: slow or stuck -----------------------------------------------------------------

    def refused(self, conn: ConnId, now: Millis, timeout: int) -> None:
        """A socket of the session's takes no more: how long will it take nothing at all?"""
        if self.stuck is None:
            self.stuck = conn
            self._timers.set(Timer.SLOW, self.sid, now + timeout)

    def pulled(self, conn: ConnId, size: int, now: Millis) -> None:
        """A socket has room, and gets so many bytes. If it was full, it has taken some before."""
        if size or self.stuck == conn:
            self.progressed(conn, now)

    def progressed(self, conn: ConnId, now: Millis) -> None:
        """A socket of the session's has taken something: the peer is alive."""
        self.progress_at = now
        if self.stuck == conn:
            self.not_stuck()

    def not_stuck(self) -> None:
        """Nothing waits for a socket of the session's any more."""
        self.stuck = None
        self._timers.clear(Timer.SLOW, self.sid)

    # -- packets -----------------------------------------------------------------------------------

    def has_output(self) -> bool:
        return bool(self.control) or self.upper.has_output()

    def pull(self, out: list[bytes], budget: int, now: Millis) -> None:
        """Append Engine.IO packets to `out`: the session's own, then about `budget` bytes."""
        if self.control:
            if wire.PING in self.control and not self.upper.has_queued():
                self._pinged_at = now
            out.extend(self.control)
            self.control.clear()
        start = len(out)
        self.upper.pull(out, budget, now)
        for index in range(start, len(out)):
            if type(out[index]) is not Binary:
                out[index] = wire.MESSAGE + out[index]

    def pull_for_poll(self, out: list[bytes], budget: int, now: Millis) -> None:
        """Append what goes into one answer, as `pull` does, and no more than the client takes."""
        if self.poll_packets is None:
            self.pull(out, budget, now)
            return
        while budget > 0 and len(out) < self.poll_packets:
            start = len(out)
            self.pull(out, 1, now)
            if len(out) == start:
                return
            budget -= sum(map(len, out[start:]))

    def last_words(self) -> list[bytes]:
        return [
            packet if type(packet) is Binary else wire.MESSAGE + packet
            for packet in self.upper.last_words()
        ]

    def receive_packet(self, packet: bytes, now: Millis) -> bool:
        """Take one packet of the session's transport. Return False if the peer closed.

        Raises:
            RemoteProtocolError: a packet that a client must not send.
        """
        if type(packet) is Binary:
            self.upper.receive(packet, now)
            return True
        kind, data = packet[:1], packet[1:]
        if kind == wire.MESSAGE:
            self.upper.receive(data, now)
        elif kind == wire.PONG:
            if self._timers.is_set(Timer.PONG, self.sid):  # an unsolicited one does nothing
                self.start_heartbeat(now)
                self.received_until = self._pinged_at
                self.upper.received()
        elif kind == wire.CLOSE:
            return False
        elif kind not in (wire.UPGRADE, wire.NOOP):
            raise RemoteProtocolError("an Engine.IO packet that a client does not send")
        return True
