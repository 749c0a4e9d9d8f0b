"""All streams of the server: how they start, grow and end, and what they hold.

Rules of this file: a stream's end is decided in `_end` and nowhere else. What the streams hold is
counted after each change; where memory is short, what was handed over goes first, then sessions
without a connection, and in the end all models pause.
"""

from collections.abc import Callable, Iterator

from tokenwire.ai import events, ollama, routing
from tokenwire.ai.answers import Line
from tokenwire.ai.counters import Counters
from tokenwire.ai.errors import Code
from tokenwire.ai.memory import Memory
from tokenwire.ai.messages import StreamRequest
from tokenwire.ai.pressure import Pressure
from tokenwire.ai.session import AiSession
from tokenwire.ai.stream import Input, Stream
from tokenwire.ai.upstream import Upstreams
from tokenwire.config import Config
from tokenwire.outputs import Notice
from tokenwire.queue import Outputs
from tokenwire.timers import Timer, Timers
from tokenwire.types import IdSource, Millis, StreamId
from tokenwire.wire import ids

_EPOCH_BYTES = 6
_MEMORY_STEP = 1_000  # how often a node without room looks whether anybody has read


class Streams:
    """The streams, each with the session that has it."""

    def __init__(
        self,
        config: Config,
        outputs: Outputs,
        timers: Timers,
        id_source: IdSource,
        counters: Counters,
        evict: Callable[[Millis], None],
    ) -> None:
        """
        Args:
            config: has the limits.
            outputs: gets what the model server is asked, and notices.
            timers: tell when a stream is out of time, and when it is forgotten.
            id_source: makes the epochs.
            counters: what happens is counted here.
            evict: forgets sessions without a connection, as long as memory is short.
        """
        self._config = config
        self._token_chars = config.token_chars
        self._log_bytes = config.log_bytes
        self._outputs = outputs
        self._timers = timers
        self._ids = id_source
        self._counters = counters
        self._evict = evict
        self.memory = Memory(config.memory_bytes)
        self.upstreams = Upstreams(config, outputs, timers, self)
        self.pressure = Pressure(config, timers, counters, self.upstreams, self._is_full)
        self._streams: dict[StreamId, tuple[AiSession, Stream]] = {}
        self._last_stream = 0
        # So long an ended stream is kept after its client was handed the last of it: a connection
        # that is dead may only be known to be after a heartbeat, and then its client may come back.
        self._ended_span = (
            config.heartbeat_interval + config.heartbeat_timeout + config.reconnect_timeout
        )

    def __iter__(self) -> Iterator[tuple[AiSession, Stream]]:
        return iter(list(self._streams.values()))

    def of(self, key: int | str) -> tuple[AiSession, Stream]:
        """Return the stream of a timer, and who has it."""
        return self._streams[StreamId(int(key))]

    # -- start -------------------------------------------------------------------------------------

    def start(
        self,
        session: AiSession,
        name: str,
        request: StreamRequest,
        route: routing.Route,
        now: Millis,
    ) -> Stream:
        """Start a stream of a session's, and ask the model."""
        self._last_stream += 1
        stream_id = StreamId(self._last_stream)
        epoch = ids.text(self._ids.random_bytes(_EPOCH_BYTES))
        stream = Stream(stream_id, name, epoch, request, route, self._config, now)
        self._streams[stream_id] = (session, stream)
        session.adopt(stream)
        self._counters.streams += 1
        self._timers.set(Timer.STREAM, stream_id, now + self._config.stream_timeout)
        session.take_turn(stream)
        upstream_request = ollama.chat_request(
            model=request.model,
            prompt=request.prompt,
            system=route.system,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            think=request.think,
        )
        self.upstreams.start(stream_id, upstream_request, now)
        self._grew(session, stream, now)
        return stream

    def give(self, stream: Stream, session: AiSession) -> None:
        """The stream is another session's from now on."""
        self._streams[stream.id] = (session, stream)

    # -- what the model sends (upstream.Listener) --------------------------------------------------

    def upstream_lines(self, stream_id: StreamId, lines: list[Line], now: Millis) -> None:
        session, stream = self._streams[stream_id]
        log = stream.log
        before = log.last_seq
        for line in lines:
            text, thinking, tool_calls = ollama.said(line)
            if thinking and stream.request.think and session.is_heard():
                self._think(stream, thinking)
            if len(text) > self._token_chars:
                for piece in self._pieces(text):
                    log.append(piece.encode())
            elif text:
                log.append(text.encode())
            if tool_calls:
                stream.add_tool_calls(tool_calls)
        if log.last_seq > before:
            self._counters.tokens += log.last_seq - before
            if stream.first_token_at is None:
                stream.first_token_at = now
                stream.move(Input.TOKEN)
        if lines[-1].done:
            self._complete(session, stream, lines[-1], now)
        self._grew(session, stream, now)

    def upstream_held(self, stream_id: StreamId, size: int, now: Millis) -> None:
        session, stream = self._streams[stream_id]
        stream.line_bytes = size
        self._grew(session, stream, now)

    def _think(self, stream: Stream, text: str) -> None:
        metadata = events.TokenMetadata(stream.request.model, thinking=True)
        agent, seq = stream.route.agent, stream.log.last_seq
        for piece in self._pieces(text):
            stream.say(events.Thinking(stream.name, piece, agent, seq, metadata))

    def _pieces(self, text: str) -> list[str]:
        """Cut what is too long for one event."""
        size = self._token_chars
        return [text[start : start + size] for start in range(0, len(text), size)]

    def _complete(self, session: AiSession, stream: Stream, last: Line, now: Millis) -> None:
        self.pressure.unpause(session, stream, now)  # so that this pause counts
        first_token = stream.first_token_at
        tokens = stream.log.last_seq
        seconds = (now - first_token) / 1000 if first_token is not None else 0
        metadata = events.CompleteMetadata(
            finish_reason=last.done_reason,
            prompt_tokens=last.prompt_eval_count,
            eval_tokens=last.eval_count,
            queue_ms=0,
            route_ms=0,
            time_to_first_token_ms=None
            if first_token is None
            else first_token - stream.accepted_at,
            tokens_per_second=round(tokens / seconds, 1) if seconds else 0.0,
            merged_events=0,  # these two: when it is sent
            paused_ms=stream.paused_ms,
            resumes=0,
            tool_calls=stream.tool_calls or None,
        )
        route = stream.route
        self._end(
            session,
            stream,
            Input.DONE,
            now,
            events.StreamComplete(
                stream.name, route.agent, route.intent, route.confidence, metadata
            ),
            events.Done(stream.name, tokens, now - stream.accepted_at),
        )

    def upstream_ended(self, stream_id: StreamId, code: Code, details: str, now: Millis) -> None:
        session, stream = self._streams[stream_id]
        self.fail(session, stream, code, details, now)

    # -- ends --------------------------------------------------------------------------------------

    def fail(
        self, session: AiSession, stream: Stream, code: Code, details: str, now: Millis
    ) -> None:
        self._counters.error(code.text)
        error = events.StreamError(stream.name, code.sentence, code.text, details, code.retryable)
        self._end(session, stream, Input.FAIL, now, error)
        fields = (("stream", stream.id), ("code", code.text), ("details", details))
        self._outputs.put(Notice("warning", "stream_failed", fields))

    def cancel(self, session: AiSession, stream: Stream, now: Millis) -> None:
        self._counters.cancels += 1
        self.upstreams.cancel(stream.id)
        self._end(
            session, stream, Input.CANCEL, now, events.StreamCancelled(stream.name), discard=True
        )

    def _end(
        self,
        session: AiSession,
        stream: Stream,
        how: Input,
        now: Millis,
        *ending: events.Event,
        discard: bool = False,
    ) -> None:
        """The one place where a stream ends."""
        stream.move(how)
        stream.over_at = now
        self.pressure.unpause(session, stream, now)
        self._timers.clear(Timer.STREAM, stream.id)
        self._timers.set(Timer.STREAM_FORGET, stream.id, now + self._ended_span)
        self._counters.ended += 1
        self._counters.ended_ms += now - stream.accepted_at
        stream.line_bytes = 0
        stream.end(*ending, discard=discard)
        self.count(stream, now)
        session.take_turn(stream)

    def bound_ended(self, session: AiSession, now: Millis) -> None:
        """Keep only so many ended streams of one client: a busy one must not fill the memory."""
        ended = [
            stream
            for stream in session.streams.values()
            if not stream.running and not stream.has_output()
        ]
        arrived = [stream for stream in ended if session.has_received(stream)]
        in_doubt = [stream for stream in ended if not session.has_received(stream)]
        surplus = arrived[: max(0, len(ended) - self._config.ended_streams_kept)]
        surplus += in_doubt[: max(0, len(in_doubt) - self._config.ended_streams_in_doubt)]
        for stream in surplus:
            self.forget(session, stream, now)

    def forget_ended(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """The time of an ended stream is over, unless its client may still lack some of it.

        A slow reader gets all of it, however long that takes; who is away may come back for it; and
        what was handed over may be lost on the way, with nobody to know it before the heartbeat.
        """
        span = self._ended_span
        due = stream.over_at + span
        waits = stream.has_output() or session.socket is None
        # One who reads and never answers a ping would be in doubt for ever.
        in_doubt = not session.has_received(stream) and now < due + span
        if due <= now and (waits or in_doubt):
            due = now + span
        if due > now:
            self._timers.set(Timer.STREAM_FORGET, stream.id, due)
        else:
            self.forget(session, stream, now)

    def forget(self, session: AiSession, stream: Stream, now: Millis) -> None:
        self._timers.clear(Timer.STREAM_FORGET, stream.id)
        self._timers.clear(Timer.PACE, stream.id)
        session.drop(stream)
        self._counters.merged_events += stream.merged_events
        del self._streams[stream.id]
        self._hold(-stream.counted_bytes, now)

    # -- memory ------------------------------------------------------------------------------------

    def _grew(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """The stream holds more: nobody may hold too much, nor all together."""
        starved = self.memory.is_starved
        self.count(stream, now)
        if self.memory.is_short:
            self._evict(now)
            if self.memory.is_starved and not starved:
                self._starve(now)
            if stream.id not in self._streams:
                return  # its own session had to go
        self.pressure.offer(session, stream, now)

    def _starve(self, now: Millis) -> None:
        """Memory is used up: what was handed over makes room, or else all models pause."""
        self.make_room(now, running=True)
        if self.memory.is_starved:
            for session, stream in self:
                self.pressure.relieve(session, stream, now)
            self._timers.set(Timer.MEMORY, 0, now + _MEMORY_STEP)

    def look_for_room(self, now: Millis) -> None:
        """Somebody may have read in the meantime."""
        if self.memory.is_starved:
            self._starve(now)

    def make_room(self, now: Millis, *, running: bool) -> None:
        """Evict what was handed over of all streams, but for the last of it."""
        share = self.memory.share(len(self._streams))
        for _, stream in self:
            if running or not stream.running:
                self._trim(stream, share, share, now)

    def _trim(self, stream: Stream, size: int, unconfirmed: int, now: Millis) -> None:
        """Evict text that was handed over until `size` bytes are held.

        The last `unconfirmed` bytes before what the client was not handed may not have arrived.
        """
        log = stream.log
        log.evict_to(size, before=log.seq_before(stream.next_seq, unconfirmed))
        stream.trim_lane()
        self.count(stream, now)

    def count(self, stream: Stream, now: Millis) -> None:
        """Count what the stream holds now."""
        before, stream.counted_bytes = stream.counted_bytes, stream.bytes_held()
        self._hold(stream.counted_bytes - before, now)

    def _hold(self, size: int, now: Millis) -> None:
        """So much more is held, or less: then models that are paused for want of room go on."""
        starved = self.memory.is_starved
        self.memory.add(size)
        if starved and not self.memory.is_starved:
            for session in dict.fromkeys(session for session, _ in self):
                if session.paused:
                    self.pressure.drained(session, now)

    def _is_full(self, stream: Stream, now: Millis) -> bool:
        """Return True if no more of the stream can be held: its client must read first."""
        limit = self._log_bytes
        if self.memory.is_starved:
            share = self.memory.share(len(self._streams))
            self._trim(stream, share, share, now)
        elif stream.log.size > limit or stream.lane_bytes > limit:
            # An eighth at once: evicting a token moves all boundaries.
            self._trim(
                stream, limit - limit // 8, min(self._config.unconfirmed_bytes, limit // 4), now
            )
        else:
            return False
        too_large = stream.log.size > limit or stream.lane_bytes > limit
        return too_large or self.memory.is_starved
