"""What is done when a client reads more slowly than its models write.

Rules of this file: a model is paused while its reader is behind, or while its log is full; a reader
that is still behind after a while is told, once in an episode. What waits is merged when it is
pulled (`stream.py`); nothing is copied and no text is lost.
"""

from collections.abc import Callable

from tokenwire.ai import events
from tokenwire.ai.session import AiSession
from tokenwire.ai.stats import Counters
from tokenwire.ai.stream import Stream
from tokenwire.ai.upstream import Upstreams
from tokenwire.config import Config
from tokenwire.timers import Timer, Timers
from tokenwire.types import Millis


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
            timers: tell when a reader is to be told.
            counters: what happens is counted here.
            upstreams: the models.
            is_full: returns True if no more of a stream can be held.
        """
        self._config = config
        self._timers = timers
        self._counters = counters
        self._upstreams = upstreams
        self._is_full = is_full

    def relieve(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """Pause the model if its reader is behind, or if its log is full."""
        if not stream.running:
            return
        config = self._config
        behind = session.socket is not None and (
            session.waiting() > config.backpressure_threshold
            or session.unsent_bytes() > config.outbox_bytes
        )
        full = self._is_full(stream, now)
        if not behind and not full:
            return
        if stream.name not in session.paused:
            self._upstreams.pause(stream.id, now)
            session.paused[stream.name] = stream
            stream.paused_at = now
        told = session.pressed or self._timers.is_set(Timer.PRESSURE, session.public)
        if behind and not told:
            self._timers.set(Timer.PRESSURE, session.public, now + config.backpressure_notice_after)

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
        """The reader is not behind (any more): read on, unless a log is full."""
        for stream in list(session.paused.values()):
            if not self._is_full(stream, now):
                self.unpause(session, stream, now)
        self._end_episode(session)

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

    def _end_episode(self, session: AiSession) -> None:
        """Whoever is behind from now on is told again."""
        session.pressed = False
        self._timers.clear(Timer.PRESSURE, session.public)

    def tell(self, session: AiSession, now: Millis) -> None:
        """The reader is still behind: it is told once, until it has caught up."""
        session.pressed = True
        self._counters.backpressure_events += 1
        for stream in session.paused.values():
            stream.say(
                events.Backpressure(
                    message="The connection is slower than the model: the model is paused.",
                    queue_size=session.waiting(),
                    stream_id=stream.name,
                    policy="merge",
                )
            )
            session.take_turn(stream)
