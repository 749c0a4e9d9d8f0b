"""All sessions: who is who, who is away, who has taken over from whom.

Rules of this file: a session is found by the public part of its clientId, and belongs to whoever
shows the secret part; or by its pid, of which only a hash is kept. It has one connection at most;
what comes over another one is not of the session. A clientId is burnt when its successor has shown
that it knows; until then a retry finds the successor.
"""

from collections.abc import Iterator

from tokenwire.ai.capability import Capabilities
from tokenwire.ai.counters import Counters
from tokenwire.ai.limits import Allowance, Rates
from tokenwire.ai.session import AiSession
from tokenwire.ai.streams import Streams
from tokenwire.config import Config
from tokenwire.outputs import Notice
from tokenwire.queue import Outputs
from tokenwire.socketio.lost import Lost
from tokenwire.socketio.recovery import Journal, new_name, new_pid, pid_key
from tokenwire.socketio.socket import Socket
from tokenwire.timers import Timer, Timers
from tokenwire.types import IdSource, Millis


class Sessions:
    """The sessions, with or without a connection."""

    def __init__(
        self,
        config: Config,
        outputs: Outputs,
        timers: Timers,
        id_source: IdSource,
        counters: Counters,
        streams: Streams,
    ) -> None:
        """
        Args:
            config: has the limits.
            outputs: gets notices.
            timers: tell when a session, or a clientId that was used, is over.
            id_source: makes clientIds and pids.
            counters: what happens is counted here.
            streams: those of all sessions.
        """
        self._config = config
        self._outputs = outputs
        self._timers = timers
        self._ids = id_source
        self._counters = counters
        self._streams = streams
        self.capabilities = Capabilities(id_source)
        self.by_socket: dict[str, AiSession] = {}
        """Those that have a connection; those that were fenced, until it has closed."""
        self._by_pid: dict[bytes, AiSession] = {}
        self._by_public: dict[str, AiSession] = {}
        self._absent: Lost[AiSession] = Lost(config.max_sessions, config.max_lost_per_address)
        self._arrivals = 0
        self._rates = Rates(config)

    def __iter__(self) -> Iterator[AiSession]:
        return iter(list(self._by_public.values()))

    def of(self, key: int | str) -> AiSession:
        """Return the session of a timer: the key is the public part of its clientId."""
        return self._by_public[str(key)]

    def of_pid(self, pid: object) -> AiSession | None:
        """Return the session of a pid; None: there is none."""
        return self._by_pid.get(pid_key(pid)) if isinstance(pid, str) else None

    def client_id(self, session: AiSession) -> str:
        return self.capabilities.client_id(session.public)

    # -- who comes ---------------------------------------------------------------------------------

    def give_pid(self, socket: Socket) -> str:
        """Give a socket the secret by which its client can come back."""
        pid = new_pid(self._ids)
        socket.pid_key = pid_key(pid)
        return pid

    def open(self, socket: Socket) -> AiSession:
        """Return the session of a new client."""
        public = self.capabilities.issue()
        control = None
        if socket.pid_key:
            control = Journal(new_name(self._ids), self._config.control_bytes)
        pressure, allowance = self._streams.pressure, Allowance(self._rates)
        session = AiSession(public, socket, pressure, control, allowance)
        self._by_public[public] = session
        if socket.pid_key:
            self._by_pid[socket.pid_key] = session
        self._arrive(session, socket)
        return session

    def come_back(self, socket: Socket) -> AiSession:
        """Return the session of a client that is back by its pid."""
        session = self._by_pid[socket.pid_key]
        self._absent.remove(session)
        self._timers.clear(Timer.SESSION_FORGET, session.public)
        self._arrive(session, socket)
        return session

    def _arrive(self, session: AiSession, socket: Socket) -> None:
        """The session has a new connection."""
        self._arrivals += 1
        session.arrived = self._arrivals
        self.by_socket[socket.id] = session
        socket.source = session

    def is_over(self, session: AiSession, now: Millis) -> bool:
        """Return True if the time in which its client may come back is over, handled or not."""
        return self._timers.is_due(Timer.SESSION_FORGET, session.public, now)

    # -- who goes ----------------------------------------------------------------------------------

    def lose(self, session: AiSession, socket: Socket, now: Millis) -> None:
        """The session has no connection any more; its client may come back."""
        del self.by_socket[socket.id]
        session.socket = None
        surplus = self._absent.add(session, socket.address)
        if surplus is not None:
            self.forget(surplus, now)
        self._timers.set(Timer.SESSION_FORGET, session.public, now + self._config.reconnect_timeout)
        # While the client is away, its streams go on.
        self._streams.pressure.reconsider(session, now)

    def forget(self, session: AiSession, now: Millis) -> None:
        """The grace period is over: its streams are cancelled at the model."""
        self._absent.remove(session)
        self._timers.clear(Timer.SESSION_FORGET, session.public)
        self.confirm(session)
        for stream in list(session.streams.values()):
            if stream.running:
                self._streams.cancel(session, stream, now)
            self._streams.forget(session, stream, now)
        del self._by_public[session.public]
        self._by_pid.pop(session.pid_key, None)

    def evict(self, now: Millis) -> None:
        """If memory is short, forget sessions whose clients are away, the longest absent first."""
        memory = self._streams.memory
        absent = list(self._absent) if memory.is_short else []
        for session in absent:
            if not memory.is_short:
                return
            if session.streams:
                self._counters.evictions += 1
                self._outputs.put(Notice("warning", "session_evicted"))
                self.forget(session, now)

    # -- takeovers ---------------------------------------------------------------------------------

    def holder(self, public: str | None, now: Millis) -> AiSession | None:
        """Return who has the streams of a clientId now; None: it is over, or never was one.

        A deadline that has passed counts, handled or not: what came late must not win.
        """
        session = None if public is None else self._by_public.get(public)
        while session is not None and session.successor is not None:
            # It was taken over before, but the answer was lost.
            burnt = self._timers.is_due(Timer.TRANSFER, session.successor.public, now)
            session = None if burnt else session.successor
        return None if session is None or self.is_over(session, now) else session

    def take_over(
        self, previous: AiSession, session: AiSession, now: Millis
    ) -> tuple[list[str], list[str]]:
        """Move all streams to `session` and fence the old connection.

        Returns:
            The names of the streams that moved, and of those that a newer one replaced.
        """
        self.confirm(session)  # of another session before
        moved: list[str] = []
        replaced: list[str] = []
        for name, stream in list(previous.streams.items()):
            rival = session.streams.get(name)
            if rival is not None:
                replaced.append(name)
                loser = stream if stream.id < rival.id else rival
                owner = previous if loser is stream else session
                if loser.running:
                    self._streams.cancel(owner, loser, now)
                owner.supersede(loser)
                self._streams.forget(owner, loser, now)
                if loser is stream:
                    continue
            moved.append(name)
            previous.drop(stream)
            session.adopt(stream)
            self._streams.give(stream, session)
            if name in previous.paused:
                session.paused[name] = stream
        previous.paused.clear()
        self._by_pid.pop(previous.pid_key, None)
        previous.retire()
        previous.successor = session
        session.previous = previous
        session.taken_over_at = now
        session.allowance.inherit_takeovers(previous.allowance)
        self._absent.remove(previous)
        self._timers.clear(Timer.SESSION_FORGET, previous.public)
        self._timers.clear(Timer.PRESSURE, previous.public)
        self._timers.set(Timer.TRANSFER, session.public, now + self._config.reconnect_timeout)
        socket, previous.socket = previous.socket, None
        if socket is not None:
            # Two tabs with one clientId: the older is told, and does not reconnect by itself.
            socket.disconnect(now)
        return moved, replaced

    def confirm(self, session: AiSession) -> None:
        """The client knows its new clientId: the old ones are burnt."""
        self._timers.clear(Timer.TRANSFER, session.public)
        previous, session.previous = session.previous, None
        while previous is not None:
            del self._by_public[previous.public]
            self._timers.clear(Timer.TRANSFER, previous.public)
            previous = previous.previous
