"""Broken variants of the core: each has one fault, and the simulation must find it.

Rules of this file: a variant replaces one method of a class of the core for the length of a test.
Here, and only here, tests reach for private names.
"""

from collections.abc import Callable
from typing import Any

import pytest
from tokenwire.ai import events
from tokenwire.ai.capability import Capabilities
from tokenwire.ai.log import TokenLog
from tokenwire.ai.pressure import Pressure
from tokenwire.ai.service import AiService
from tokenwire.ai.session import AiSession
from tokenwire.ai.sessions import Sessions
from tokenwire.ai.stream import LaneEvent, Stream
from tokenwire.ai.streams import Streams
from tokenwire.ai.upstream import Upstreams
from tokenwire.socketio.recovery import Journal
from tokenwire.socketio.socket import Socket
from tokenwire.timers import Key, Timer, Timers
from tokenwire.types import Millis, StreamId

Patch = Callable[[pytest.MonkeyPatch], None]

VARIANTS: dict[str, Patch] = {}
"""By what is wrong."""


def variant(name: str) -> Callable[[Patch], Patch]:
    def add(patch: Patch) -> Patch:
        VARIANTS[name] = patch
        return patch

    return add


def nothing(*args: object, **kwargs: object) -> None:
    """Do nothing."""


# -- replays ---------------------------------------------------------------------------------------

go_to = Stream._go_to


@variant("a replay skips a token")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "_go_to", lambda self, seq: go_to(self, seq + 1))


@variant("a replay repeats a token")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "_go_to", lambda self, seq: go_to(self, seq - 1))


@variant("an offset counts a token that was not handed over")
def _(patch: pytest.MonkeyPatch) -> None:
    offset_at = AiSession._offset_at

    def broken(self: AiSession, control: int) -> bytes:
        for stream in self.streams.values():
            stream.next_seq += 1
        text = offset_at(self, control)
        for stream in self.streams.values():
            stream.next_seq -= 1
        return text

    patch.setattr(AiSession, "_offset_at", broken)


after = Journal.after


@variant("recovery skips an event")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "after", lambda self, number: (after(self, number) or [])[1:])


@variant("recovery repeats an event")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "after", lambda self, number: after(self, max(0, number - 1)))


@variant("a gap is not said")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AiService, "_say_gap", nothing)


@variant("what a client has cannot be more than a cancel has left")
def _(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Stream, seq: int, lane_at: int) -> bool:
        return seq <= self.log.last_seq and lane_at <= self.lane_end

    patch.setattr(Stream, "knows", broken)


@variant("a stream that its client has whole goes on in the midst of a replay")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "recover_all", nothing)


# -- ends ------------------------------------------------------------------------------------------

say_ending = Stream._say_ending


@variant("the end is lost")
def _(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Stream) -> None:
        self._ending = self._ending[:1] if len(self._ending) > 1 else self._ending
        say_ending(self)

    patch.setattr(Stream, "_say_ending", broken)


@variant("the end is said twice")
def _(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Stream) -> None:
        say_ending(self)
        say_ending(self)

    patch.setattr(Stream, "_say_ending", broken)


@variant("a cancelled stream sends what waited")
def _(patch: pytest.MonkeyPatch) -> None:
    end = Stream.end

    def broken(self: Stream, *ending: events.Event, discard: bool = False) -> None:
        if discard:
            self._ending = ending
            self._put(LaneEvent(self.next_seq - 1, ending[0]))
        else:
            end(self, *ending)

    patch.setattr(Stream, "end", broken)


@variant("a cancel does not close the model's connection")
def _(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Upstreams, stream: StreamId) -> None:
        if stream in self._upstreams:
            self._forget(stream)

    patch.setattr(Upstreams, "cancel", broken)


@variant("a stream loses its turn")
def _(patch: pytest.MonkeyPatch) -> None:
    pull_events = AiSession.pull_events

    def broken(self: AiSession, out: list[bytes], budget: int, now: Millis) -> int:
        used = pull_events(self, out, budget, now)
        if len(self._turns) > 1:
            self._turns.pop()
        return used

    patch.setattr(AiSession, "pull_events", broken)


@variant("a shutdown does not wait for streams")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AiService, "_shutdown_step", lambda self, now: True)


# -- timers ----------------------------------------------------------------------------------------


def without(patch: pytest.MonkeyPatch, lost: Timer) -> None:
    set_timer = Timers.set

    def broken(self: Timers, timer: Timer, key: Key, at: int) -> None:
        if timer is not lost:
            set_timer(self, timer, key, at)

    patch.setattr(Timers, "set", broken)


@variant("a session is kept for ever")
def _(patch: pytest.MonkeyPatch) -> None:
    without(patch, Timer.SESSION_FORGET)


@variant("a session is not kept as long as was said")
def _(patch: pytest.MonkeyPatch) -> None:
    set_timer = Timers.set

    def broken(self: Timers, timer: Timer, key: Key, at: int) -> None:
        set_timer(self, timer, key, at - 9_000 if timer is Timer.SESSION_FORGET else at)

    patch.setattr(Timers, "set", broken)


@variant("the memory of an ended stream is not freed")
def _(patch: pytest.MonkeyPatch) -> None:
    without(patch, Timer.STREAM_FORGET)


@variant("a stream may run for ever")
def _(patch: pytest.MonkeyPatch) -> None:
    without(patch, Timer.STREAM)


@variant("a model may be silent for ever")
def _(patch: pytest.MonkeyPatch) -> None:
    without(patch, Timer.UPSTREAM_SILENCE)


@variant("a response lingers for ever")
def _(patch: pytest.MonkeyPatch) -> None:
    without(patch, Timer.UPSTREAM_LINGER)


@variant("a dead socket is never noticed")
def _(patch: pytest.MonkeyPatch) -> None:
    without(patch, Timer.PONG)


@variant("a model that we pause is taken for silent")
def _(patch: pytest.MonkeyPatch) -> None:
    pause = Upstreams.pause

    def broken(self: Upstreams, stream: StreamId, now: Millis) -> None:
        pause(self, stream, now)
        if stream in self._upstreams:
            self._watch(stream, self._upstreams[stream])

    patch.setattr(Upstreams, "pause", broken)


@variant("a timer is set into the past")
def _(patch: pytest.MonkeyPatch) -> None:
    watch = Upstreams._watch

    def broken(self: Upstreams, stream: StreamId, upstream: Any) -> None:
        watch(self, stream, upstream)
        if upstream.started:
            self._timers.set(Timer.UPSTREAM_SILENCE, stream, upstream.active_at)

    patch.setattr(Upstreams, "_watch", broken)


# -- pressure --------------------------------------------------------------------------------------


@variant("the model is not paused")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Upstreams, "pause", nothing)


@variant("the model is not resumed")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pressure, "reconsider", nothing)


@variant("a full log stays full")
def _(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Streams, stream: Stream, now: Millis) -> bool:
        return stream.log.size > self._config.log_bytes

    patch.setattr(Streams, "_is_full", broken)


@variant("text is evicted that was not sent")
def _(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Streams, stream: Stream, now: Millis) -> bool:
        log = stream.log
        log.evict_to(self._config.log_bytes, before=log.last_seq + 1)
        stream.next_seq = max(stream.next_seq, log.first_seq)
        return False

    patch.setattr(Streams, "_is_full", broken)


@variant("text is evicted that may not have arrived")
def _(patch: pytest.MonkeyPatch) -> None:
    seq_before = TokenLog.seq_before
    patch.setattr(TokenLog, "seq_before", lambda self, seq, size: seq_before(self, seq, 0))


@variant("a merge loses a token")
def _(patch: pytest.MonkeyPatch) -> None:
    text = TokenLog.text
    patch.setattr(
        TokenLog, "text", lambda self, first, last: text(self, first, last - (last > first + 1))
    )


@variant("a transfer forgets that models are paused")
def _(patch: pytest.MonkeyPatch) -> None:
    take_over = Sessions.take_over

    def broken(self: Sessions, previous: AiSession, session: AiSession, now: Millis) -> object:
        previous.paused.clear()
        return take_over(self, previous, session, now)

    patch.setattr(Sessions, "take_over", broken)


# -- who is who ------------------------------------------------------------------------------------


@variant("a late close kills the session that was transferred")
def _(patch: pytest.MonkeyPatch) -> None:
    def broken(
        self: AiService, socket: Socket, reason: str, now: Millis, *, may_return: bool
    ) -> None:
        session = self._sessions.by_socket[socket.id]
        if session.socket is socket:
            self._sessions.lose(session, socket, now)
            return
        del self._sessions.by_socket[socket.id]
        if session.successor is not None:
            for stream in list(session.successor.streams.values()):
                if stream.running:
                    self._streams.cancel(session.successor, stream, now)

    patch.setattr(AiService, "disconnected", broken)


@variant("the public part of a clientId is enough")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Capabilities, "check", lambda self, client_id: str(client_id).partition(".")[0])


@variant("a clientId is good more than once")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "confirm", nothing)


@variant("a pid lives on after a transfer")
def _(patch: pytest.MonkeyPatch) -> None:
    take_over = Sessions.take_over

    def broken(self: Sessions, previous: AiSession, session: AiSession, now: Millis) -> object:
        result = take_over(self, previous, session, now)
        if previous.pid_key:
            self._by_pid[previous.pid_key] = session
        return result

    patch.setattr(Sessions, "take_over", broken)


@variant("anybody may cancel")
def _(patch: pytest.MonkeyPatch) -> None:
    on_cancel = AiService._on_cancel

    def broken(self: AiService, session: AiSession, args: list[Any], now: Millis) -> object:
        name = args[0]["streamId"]
        owners = [session, *self._sessions.by_socket.values()]
        owner = next((owner for owner in owners if name in owner.streams), session)
        return on_cancel(self, owner, args, now)

    patch.setattr(AiService, "_on_cancel", broken)


@variant("a stream of a name is one for all")
def _(patch: pytest.MonkeyPatch) -> None:
    on_reconnect = AiService._on_reconnect

    def broken(self: AiService, session: AiSession, args: list[Any], now: Millis) -> object:
        for name in args[0].get("streams", {}):
            for owner in list(self._sessions.by_socket.values()):
                if name in owner.streams and name not in session.streams:
                    stream = owner.streams[name]
                    owner.drop(stream)
                    session.adopt(stream)
                    self._streams.give(stream, session)
        return on_reconnect(self, session, args, now)

    patch.setattr(AiService, "_on_reconnect", broken)


@variant("the count of running streams leaks")
def _(patch: pytest.MonkeyPatch) -> None:
    def broken(self: AiSession) -> int:
        left = self._last_number - len(self.streams)
        return sum(stream.running for stream in self.streams.values()) + max(0, left)

    patch.setattr(AiSession, "active_streams", broken)
