"""What is done when a client reads more slowly than its models write.

Rules of this file: the measures come in this order, and each is counted. What waits is merged when
it is pulled (`stream.py`). While a reader is behind, or a log is full, the model is paused. A
reader that is still behind after a while is told, once in an episode. (One that takes nothing at
all is dropped by the Engine.IO layer.) With the policy "skip" the model is not paused for a reader:
once that was told, the oldest tokens above the threshold are left out instead.
"""

from collections.abc import Callable

from tokenwire.ai import events
from tokenwire.ai.counters import Counters
from tokenwire.ai.session import AiSession
from tokenwire.ai.stream import Stream
from tokenwire.ai.upstream import Upstreams
from tokenwire.config import Config
from tokenwire.timers import Timer, Timers
from tokenwire.types import Millis

_MESSAGES = {
    "merge": "The connection is slower than the model: the model is paused.",
    "pause": "The connection is slower than the model: the model is paused.",
    "skip": "The connection is slower than the model: tokens are left out.",
}


class Pressure:
    """The measures, for all sessions (`session.Listener`)."""

    def __init__(
        self,
        config: Config,
        timers: Timers,
        counters: Counters,
        upstreams: Upstreams,
        is_full: Callable[[Stream, Millis], bool],
    ) -> None:
        """
        Args:
            config: has the limits.
            timers: tell when a reader is to be told, and when a paced token may go.
            counters: what happens is counted here.
            upstreams: the models.
            is_full: returns True if no more of a stream can be held.
        """
        self._config = config
        self._timers = timers
        self._counters = counters
        self._upstreams = upstreams
        self._is_full = is_full
        self._skips = config.backpressure_policy == "skip"

    # -- what the streams and the sockets bring ----------------------------------------------------

    def offer(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """The stream has more for its client, or may hand over more of it."""
        if stream.pace is not None:
            self._release(session, stream, now)
        waited = session.has_events()
        writable = session.take_turn(stream)
        if not writable:
            stream.hold()
        if waited or not writable:
            self.relieve(session, stream, now)
        elif stream.running:  # the client gets this now
            self._bound(session, stream, now)

    def refused(self, session: AiSession, now: Millis) -> None:
        """The client's socket takes no more: what it was not handed waits."""
        session.hold()
        for stream in session.streams.values():
            self.relieve(session, stream, now)

    def drained(self, session: AiSession, now: Millis) -> None:
        """The client has taken something: read on at the low-water mark, half of the high one."""
        config = self._config
        if (
            session.waiting() <= config.backpressure_threshold // 2
            and session.unsent_bytes() <= config.outbox_bytes // 2
        ):
            self.reconsider(session, now)

    def reconsider(self, session: AiSession, now: Millis) -> None:
        """The reader is not behind (any more): read on, unless there is another reason not to."""
        for stream in list(session.paused.values()):
            if not self._is_full(stream, now) and not self._is_ahead(session, stream, 2):
                self.unpause(session, stream, now)
        self._end_episode(session)

    # -- the measures ------------------------------------------------------------------------------

    def relieve(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """Take the measures that a stream needs now."""
        if not stream.running:
            return
        behind = self._is_behind(session)
        if behind:
            self._begin_episode(session, now)
            if self._skips and session.told:
                self._skip(session, stream)
        if behind and not self._skips:
            self._pause(session, stream, now)
        else:
            self._bound(session, stream, now)

    def _bound(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """Pause the model of a stream that holds all it may, whoever reads it."""
        if self._is_full(stream, now) or (
            stream.pace is not None and self._is_ahead(session, stream, 1)
        ):
            self._pause(session, stream, now)

    def _is_behind(self, session: AiSession) -> bool:
        config = self._config
        return session.socket is not None and (
            session.waiting() > config.backpressure_threshold
            or session.unsent_bytes() > config.outbox_bytes
        )

    def _is_ahead(self, session: AiSession, stream: Stream, share: int) -> bool:
        """Return True if a paced stream has more than its share of a threshold that may not go."""
        if stream.pace is None or session.socket is None:
            return False
        config = self._config
        return (
            stream.held() > config.backpressure_threshold // share
            or stream.held_bytes() > config.outbox_bytes // share
        )

    def _pause(self, session: AiSession, stream: Stream, now: Millis) -> None:
        if stream.name not in session.paused:
            self._upstreams.pause(stream.id, now)
            session.paused[stream.name] = stream
            stream.paused_at = now

    def unpause(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """Read on, if the model is paused."""
        if session.paused.pop(stream.name, None) is None:
            return
        assert stream.paused_at is not None
        stream.paused_ms += now - stream.paused_at
        self._counters.paused_ms += now - stream.paused_at
        stream.paused_at = None
        self._upstreams.resume(stream.id, now)
        if not session.paused:
            self._end_episode(session)

    def _skip(self, session: AiSession, stream: Stream) -> None:
        """Leave out what is above the threshold."""
        config = self._config
        tokens = session.waiting() - config.backpressure_threshold
        size = session.unsent_bytes() - config.outbox_bytes
        self._counters.skipped_tokens += stream.skip(max(0, tokens), max(0, size))

    # -- telling the reader ------------------------------------------------------------------------

    def _begin_episode(self, session: AiSession, now: Millis) -> None:
        if not session.behind:
            session.behind = True
            at = now + self._config.backpressure_notice_after
            self._timers.set(Timer.PRESSURE, session.public, at)

    def _end_episode(self, session: AiSession) -> None:
        """Whoever is behind from now on is told again."""
        session.behind = session.told = False
        self._timers.clear(Timer.PRESSURE, session.public)

    def tell(self, session: AiSession, now: Millis) -> None:
        """The reader is still behind: it is told once, until it has caught up."""
        policy = self._config.backpressure_policy
        if self._skips:
            late = [one for one in session.streams.values() if one.running and one.waiting()]
        else:
            late = list(session.paused.values())
        session.told = True
        self._counters.backpressure_events += bool(late)
        waiting = session.waiting()
        for stream in late:
            stream.say(events.Backpressure(_MESSAGES[policy], waiting, stream.name, policy))
            self.offer(session, stream, now)

    # -- the rate ----------------------------------------------------------------------------------

    def _release(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """Let as many tokens go as the rate allows; the timer lets the others."""
        assert stream.pace is not None
        held = stream.held()
        if session.socket is not None:
            held = stream.pace.take(held, now)
        stream.release(held)
        if stream.held():
            self._timers.set(Timer.PACE, stream.id, stream.pace.next_at(stream.held()))
