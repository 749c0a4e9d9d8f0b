"""The AI protocol's namespace: what each event does.

Rules of this file: every client event is answered by an event (and by its ack, if it asked for
one); a refusal is an `ai:error` and changes nothing. A stream's end is decided in `_end` and
nowhere else. Sessions are found by the public part of their clientId and belong to whoever shows
the secret part; nothing a client names (a streamId) is ever a key outside its own session.
"""

from collections.abc import Callable

from tokenwire.ai import events, messages, ollama, routing
from tokenwire.ai.capability import Capabilities, is_client_id
from tokenwire.ai.errors import Code, Refusal
from tokenwire.ai.limits import Allowance
from tokenwire.ai.memory import Memory
from tokenwire.ai.messages import Cursor, StreamRequest
from tokenwire.ai.pressure import Pressure
from tokenwire.ai.session import AiSession
from tokenwire.ai.stats import Counters, Stats
from tokenwire.ai.stream import Input, Stream
from tokenwire.ai.upstream import Upstreams
from tokenwire.buckets import Buckets, per_minute
from tokenwire.config import Config
from tokenwire.engineio.session import SLOW_CONSUMER
from tokenwire.outputs import Notice, Outputs
from tokenwire.socketio.binary import encode_body
from tokenwire.socketio.lost import Lost
from tokenwire.socketio.recovery import Journal, new_name, new_pid, pid_key
from tokenwire.socketio.socket import Recovered, Socket
from tokenwire.timers import Timer, Timers
from tokenwire.types import IdSource, Millis, StreamId
from tokenwire.wire import ids

_EPOCH_BYTES = 6
_STREAM_NAME_BYTES = 9
_MEMORY_STEP = 1_000  # how often a node without room looks whether anybody has read
_SHUTDOWN_STEP = 50  # how often a shutdown looks whether all has been said

Answer = dict[str, object]


class AiService:
    """All sessions and streams of one server."""

    def __init__(
        self, config: Config, outputs: Outputs, timers: Timers, id_source: IdSource
    ) -> None:
        self._config = config
        self._outputs = outputs
        self._timers = timers
        self._ids = id_source
        self._capabilities = Capabilities(id_source)
        self._counters = Counters()
        self._memory = Memory(config.memory_bytes)
        self.upstreams = Upstreams(config, outputs, timers, self)
        self._pressure = Pressure(config, timers, self._counters, self.upstreams, self._is_full)
        self._by_socket: dict[str, AiSession] = {}
        self._by_pid: dict[bytes, AiSession] = {}
        self._by_public: dict[str, AiSession] = {}
        self._absent: Lost[AiSession] = Lost(config.max_sessions, config.max_lost_per_address)
        self._joins = Buckets(per_minute(config.joins_per_minute), config.max_sessions)
        """By the connection: each session begins with new limits."""
        self._streams: dict[StreamId, tuple[AiSession, Stream]] = {}
        self._last_stream = 0
        self._arrivals = 0
        self._shutdown_at: Millis | None = None
        # So long an ended stream is kept after its client was handed the last of it: a connection
        # that is dead may only be known to be after a heartbeat, and then its client may come back.
        self._ended_span = (
            config.heartbeat_interval + config.heartbeat_timeout + config.reconnect_timeout
        )
        self._handlers: dict[str, Callable[[AiSession, list[object], Millis], Answer]] = {
            "ai:stream": self._on_stream,
            "ai:cancel": self._on_cancel,
            "ai:heartbeat": self._on_heartbeat,
            "ai:reconnect": self._on_reconnect,
        }
        self._allowed_models = frozenset(map(ollama.canonical_name, config.allowed_models))

    # -- the namespace (socketio.socket.Namespace) -------------------------------------------------

    @property
    def recovers(self) -> bool:
        return self._config.recovery != "off"

    def connect(self, socket: Socket, auth: object, now: Millis) -> dict[str, object] | None:
        if self._shutdown_at is not None:
            code = Code.SERVER_SHUTTING_DOWN
            return {"message": code.sentence, "data": {"code": code.text}}
        assert socket.carrier is not None
        wait = self._joins.take(socket.carrier.session.sid.encode(), now)
        if wait:
            code = Code.RATE_LIMITED
            data = {"code": code.text, "retryable": code.retryable, "retryAfterMs": wait}
            return {"message": code.sentence, "data": data}
        return None

    def recover(self, name: str, auth: object, now: Millis) -> Recovered | None:
        pid = auth.get("pid") if isinstance(auth, dict) else None
        session = self._by_pid.get(pid_key(pid)) if isinstance(pid, str) else None
        if session is None or self._shutdown_at is not None:
            return None
        assert isinstance(auth, dict)
        offset = session.parse(auth.get("offset"))
        late = self._timers.is_due(Timer.SESSION_FORGET, session.public, now)
        if offset is None or late:
            return None
        old = session.socket
        if old is not None and old.carrier is not None:  # nobody knows yet that it is dead
            try:
                session.allowance.take_takeover(now)
            except Refusal:
                return None
            carrier = old.carrier
            carrier.release(old)
            self._lose(session, old, now)
            carrier.abort("replaced", now)
        socket = Socket(None, session.socket_id, name, self)
        socket.pid_key = session.pid_key
        return Recovered(socket, str(pid), [])

    def admit(self, socket: Socket, auth: object) -> str | None:
        if not self._offers_recovery(socket, auth):
            return None
        pid = new_pid(self._ids)
        socket.pid_key = pid_key(pid)
        return pid

    def _offers_recovery(self, socket: Socket, auth: object) -> bool:
        """Return True if the client is one that hides the offsets from its program.

        python-socketio's hands them on as one more argument, and its handlers then fail; it shows
        at the HTTP library that it uses.
        """
        if isinstance(auth, dict) and auth.get("recovery") is False:
            return False
        mode = self._config.recovery
        return mode == "on" or (
            mode == "auto" and not socket.user_agent.lower().startswith("python")
        )

    def connected(self, socket: Socket, auth: object, now: Millis, *, recovered: bool) -> None:
        if recovered:
            self._recover(socket, auth, now)
            return
        public = self._capabilities.issue()
        control = None
        if socket.pid_key:
            control = Journal(new_name(self._ids), self._config.control_bytes)
        session = AiSession(public, socket, self._pressure, control, Allowance(self._config))
        self._by_socket[socket.id] = session
        self._by_public[public] = session
        if socket.pid_key:
            self._by_pid[socket.pid_key] = session
        socket.source = session
        self._arrive(session)
        session.send(self._hello(session, recovered=False), now)

    def _arrive(self, session: AiSession) -> None:
        """The session has a new connection."""
        self._arrivals += 1
        session.arrived = self._arrivals

    def _recover(self, socket: Socket, auth: object, now: Millis) -> None:
        """A client is back by itself: what it lacks is made again."""
        session = self._by_pid[socket.pid_key]
        assert isinstance(auth, dict)
        offset = session.parse(auth.get("offset"))
        assert offset is not None
        self._absent.remove(session)
        self._timers.clear(Timer.SESSION_FORGET, session.public)
        self._by_socket[socket.id] = session
        socket.source = session
        self._arrive(session)
        self._counters.resumes += 1
        hello = self._hello(session, recovered=True)
        for stream in session.recover(offset, socket, hello, now):
            self._say_gap(session, stream, now)

    def _hello(self, session: AiSession, *, recovered: bool) -> events.Connected:
        return events.Connected(
            client_id=self._capabilities.client_id(session.public),
            max_concurrent_streams=self._config.max_concurrent_streams,
            backpressure_threshold=self._config.backpressure_threshold,
            heartbeat_interval=self._config.heartbeat_interval,
            reconnect_timeout=self._config.reconnect_timeout,
            protocol=events.PROTOCOL,
            recovered=recovered,
        )

    def event(
        self, socket: Socket, name: str | int, args: list[object], ack_id: int | None, now: Millis
    ) -> None:
        session = self._by_socket[socket.id]
        if name != "ai:reconnect":
            self._confirm_transfer(session)
        try:
            session.allowance.take_message(now)
            handler = self._handlers.get(str(name))
            if handler is None:
                raise Refusal(Code.UNKNOWN_EVENT, details="see spec/ai-streaming.md")
            answer: Answer = {"ok": True, **handler(session, args, now)}
        except Refusal as refusal:
            answer = self._refuse(session, refusal, messages.known_stream_id(args), now)
        if ack_id is not None and session.socket is socket:
            socket.acknowledge(ack_id, encode_body([answer], 0), now)
        self._cut_abuser(session, socket, now)

    def _cut_abuser(self, session: AiSession, socket: Socket, now: Millis) -> None:
        """Disconnect a client that floods or guesses, behind the last answer."""
        carrier = socket.carrier
        if carrier is not None and (session.allowance.is_flooded or carrier.guesser.is_over):
            socket.disconnect(now, close=True)

    def acknowledged(self, socket: Socket, ack_id: int, args: list[object]) -> None:
        """The service asks for no acknowledgements."""

    def disconnected(self, socket: Socket, reason: str, now: Millis, *, may_return: bool) -> None:
        session = self._by_socket[socket.id]
        if session.socket is socket:  # else it was fenced: the session has moved on
            self._counters.detaches += reason == SLOW_CONSUMER
            self._lose(session, socket, now)
            self._evict(now)
        else:
            del self._by_socket[socket.id]

    def _lose(self, session: AiSession, socket: Socket, now: Millis) -> None:
        """The session has no connection any more; its client may come back."""
        del self._by_socket[socket.id]
        session.socket = None
        surplus = self._absent.add(session, socket.address)
        if surplus is not None:
            self._forget_session(surplus, now)
        self._timers.set(Timer.SESSION_FORGET, session.public, now + self._config.reconnect_timeout)
        self._pressure.reconsider(session, now)  # while the client is away, its streams go on

    def _refuse(
        self, session: AiSession, refusal: Refusal, stream_id: str | None, now: Millis
    ) -> Answer:
        code = refusal.code
        self._counters.error(code.text)
        error = events.Error(
            error=refusal.error,
            code=code.text,
            details=refusal.details or code.text,
            retryable=code.retryable,
            retry_after_ms=refusal.retry_after_ms,
            field=refusal.field,
            stream_id=refusal.stream_id or stream_id,
        )
        if not refusal.quiet:
            session.send(error, now)
        return {"ok": False, "error": refusal.error, "code": code.text}

    # -- ai:stream ---------------------------------------------------------------------------------

    def _on_stream(self, session: AiSession, args: list[object], now: Millis) -> Answer:
        if self._shutdown_at is not None:
            raise Refusal(Code.SERVER_SHUTTING_DOWN)
        name, request = messages.parse_stream(args, self._config)
        if name is None:
            name = f"stream_{ids.text(self._ids.random_bytes(_STREAM_NAME_BYTES))}"
        stream = session.streams.get(name)
        if stream is not None and stream.running:
            if not stream.is_for(request):
                raise Refusal(Code.DUPLICATE_STREAM, field="streamId", stream_id=name)
            if not stream.is_all_to_come() and not self._rewind(session, stream, None, now):
                self._say_gap(session, stream, now)
            return {"streamId": name, "epoch": stream.epoch}
        limit = self._config.max_concurrent_streams
        if session.active_streams() >= limit:
            raise Refusal(
                Code.TOO_MANY_STREAMS,
                f"At most {limit} streams may run at once.",
                details=f"limit: {limit}",
            )
        self._check_unread(session)
        if self._memory.is_scarce:
            self._make_room(now, running=False)
            if self._memory.is_scarce:
                raise Refusal(Code.NODE_OVERLOADED)
        self._check_model(request.model)
        route = self._route(request)
        session.allowance.take_start(now)
        unread: list[bytes] = []
        if stream is not None:  # what its client was not told yet goes before the new start
            unread = stream.drain()
            session.supersede(stream)
            self._forget_stream(session, stream, now)
        self._bound_ended(session, now)
        stream = self._start(session, name, request, route, now)
        stream.precede(unread)
        self._count(stream, now)
        return {"streamId": name, "epoch": stream.epoch}

    def _check_unread(self, session: AiSession) -> None:
        """Refuse more to a client that does not read what it has asked for."""
        config = self._config
        unread = [
            stream
            for stream in session.streams.values()
            if not stream.running and stream.has_output()
        ]
        if (
            len(unread) >= config.ended_streams_kept
            or sum(stream.unsent_bytes() for stream in unread) > config.outbox_bytes
        ):
            raise Refusal(
                Code.TOO_MANY_STREAMS,
                "Too much of earlier streams has not been read yet.",
                details=f"unread streams: {len(unread)}",
            )

    def _check_model(self, model: str) -> None:
        if "*" in self._config.allowed_models:
            return
        name = ollama.canonical_name(model)
        if self._allowed_models:
            if name not in self._allowed_models:
                raise Refusal(Code.MODEL_NOT_ALLOWED, field="model")
        elif self.upstreams.models is not None and name not in self.upstreams.models:
            raise Refusal(Code.MODEL_NOT_FOUND, field="model")

    def _start(
        self,
        session: AiSession,
        name: str,
        request: StreamRequest,
        route: routing.Route,
        now: Millis,
    ) -> Stream:
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

    @staticmethod
    def _route(request: StreamRequest) -> routing.Route:
        agent = None
        if request.agent is not None:
            agent = routing.BY_NAME.get(request.agent.lower())
            if agent is None:
                names = ", ".join(agent.name for agent in routing.BY_NAME.values())
                raise Refusal(Code.INVALID_REQUEST, f"agent must be one of {names}.", field="agent")
        if not request.use_orchestrator:
            return routing.DIRECT
        if agent is not None:
            return routing.named(agent, request.agent_context)
        return routing.route(request.prompt, request.agent_context)

    # -- what the model sends (upstream.Listener) --------------------------------------------------

    def upstream_lines(self, stream_id: StreamId, lines: list[ollama.Line], now: Millis) -> None:
        session, stream = self._streams[stream_id]
        log = stream.log
        before = log.last_seq
        longest = self._config.token_chars
        for line in lines:
            text, thinking, tool_calls = line.said
            if thinking and stream.request.think and session.is_heard():
                self._think(stream, thinking)
            if len(text) > longest:
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
        size = self._config.token_chars
        return [text[start : start + size] for start in range(0, len(text), size)]

    def _complete(self, session: AiSession, stream: Stream, last: ollama.Line, now: Millis) -> None:
        self._pressure.unpause(session, stream, now)  # so that this pause counts
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
        self._fail(session, stream, code, details, now)

    def _fail(
        self, session: AiSession, stream: Stream, code: Code, details: str, now: Millis
    ) -> None:
        self._counters.error(code.text)
        error = events.StreamError(stream.name, code.sentence, code.text, details, code.retryable)
        self._end(session, stream, Input.FAIL, now, error)
        fields = (("stream", stream.id), ("code", code.text), ("details", details))
        self._outputs.put(Notice("warning", "stream_failed", fields))

    def _cancel(self, session: AiSession, stream: Stream, now: Millis) -> None:
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
        self._pressure.unpause(session, stream, now)
        self._timers.clear(Timer.STREAM, stream.id)
        self._timers.set(Timer.STREAM_FORGET, stream.id, now + self._ended_span)
        self._counters.ended += 1
        self._counters.ended_ms += now - stream.accepted_at
        stream.line_bytes = 0
        stream.end(*ending, discard=discard)
        self._count(stream, now)
        session.take_turn(stream)

    def _bound_ended(self, session: AiSession, now: Millis) -> None:
        """Keep only so many ended streams of one client: a busy one must not fill the memory."""
        ended = [
            stream
            for stream in session.streams.values()
            if not stream.running and not stream.has_output()
        ]
        for stream in ended[: max(0, len(ended) - self._config.ended_streams_kept)]:
            self._forget_stream(session, stream, now)

    def _forget_ended(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """The time of an ended stream is over, unless its client may still lack some of it.

        A slow reader gets all of it, however long that takes; who is away may come back for it; and
        what was handed over may be lost on the way, with nobody to know it before the heartbeat.
        """
        socket = session.socket
        heard = socket is not None and (
            socket.heard_at >= stream.over_at + self._config.heartbeat_timeout
        )
        due = stream.over_at + self._ended_span
        if due <= now and (stream.has_output() or not heard):
            due = now + self._ended_span
        if due > now:
            self._timers.set(Timer.STREAM_FORGET, stream.id, due)
        else:
            self._forget_stream(session, stream, now)

    def _forget_stream(self, session: AiSession, stream: Stream, now: Millis) -> None:
        self._timers.clear(Timer.STREAM_FORGET, stream.id)
        self._timers.clear(Timer.PACE, stream.id)
        session.drop(stream)
        self._counters.merged_events += stream.merged_events
        del self._streams[stream.id]
        self._hold(-stream.counted_bytes, now)

    # -- memory ------------------------------------------------------------------------------------

    def _grew(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """The stream holds more: nobody may hold too much, nor all together."""
        starved = self._memory.is_starved
        self._count(stream, now)
        if self._memory.is_short:
            self._evict(now)
            if self._memory.is_starved and not starved:
                self._starve(now)
            if stream.id not in self._streams:
                return  # its own session had to go
        self._pressure.offer(session, stream, now)

    def _starve(self, now: Millis) -> None:
        """Memory is used up: what was handed over makes room, or else all models pause."""
        self._make_room(now, running=True)
        if self._memory.is_starved:
            for session, stream in list(self._streams.values()):
                self._pressure.relieve(session, stream, now)
            self._timers.set(Timer.MEMORY, 0, now + _MEMORY_STEP)

    def _make_room(self, now: Millis, *, running: bool) -> None:
        """Evict what was handed over of all streams, but for the last of it."""
        share = self._memory.share(len(self._streams))
        for _, stream in list(self._streams.values()):
            if running or not stream.running:
                self._trim(stream, share, share, now)

    def _trim(self, stream: Stream, size: int, unconfirmed: int, now: Millis) -> None:
        """Evict text that was handed over until `size` bytes are held.

        The last `unconfirmed` bytes before what the client was not handed may not have arrived.
        """
        log = stream.log
        log.evict_to(size, before=log.seq_before(stream.next_seq, unconfirmed))
        stream.trim_lane()
        self._count(stream, now)

    def _evict(self, now: Millis) -> None:
        """If memory is short, forget sessions whose clients are away, the longest absent first."""
        absent = list(self._absent) if self._memory.is_short else []
        for session in absent:
            if not self._memory.is_short:
                return
            if session.streams:
                self._counters.evictions += 1
                self._outputs.put(Notice("warning", "session_evicted"))
                self._forget_session(session, now)

    def _count(self, stream: Stream, now: Millis) -> None:
        """Count what the stream holds now."""
        before, stream.counted_bytes = stream.counted_bytes, stream.bytes_held()
        self._hold(stream.counted_bytes - before, now)

    def _hold(self, size: int, now: Millis) -> None:
        """So much more is held, or less: then models that are paused for want of room go on."""
        starved = self._memory.is_starved
        self._memory.add(size)
        if starved and not self._memory.is_starved:
            for session in list(self._by_public.values()):
                if session.paused:
                    self._pressure.drained(session, now)

    def _is_full(self, stream: Stream, now: Millis) -> bool:
        """Return True if no more of the stream can be held: its client must read first."""
        config, limit = self._config, self._config.log_bytes
        if self._memory.is_starved:
            share = self._memory.share(len(self._streams))
            self._trim(stream, share, share, now)
        elif stream.log.size > limit or stream.lane_bytes > limit:
            # An eighth at once: evicting a token moves all boundaries.
            self._trim(stream, limit - limit // 8, min(config.unconfirmed_bytes, limit // 4), now)
        else:
            return False
        too_large = stream.log.size > limit or stream.lane_bytes > limit
        return too_large or self._memory.is_starved

    # -- ai:cancel, ai:heartbeat -------------------------------------------------------------------

    def _on_cancel(self, session: AiSession, args: list[object], now: Millis) -> Answer:
        name = messages.stream_id(args, "ai:cancel")
        stream = session.streams.get(name)
        if stream is None:
            raise Refusal(Code.STREAM_NOT_FOUND, field="streamId", stream_id=name)
        if not stream.running:
            raise Refusal(
                Code.STREAM_NOT_FOUND,
                "The stream has ended already.",
                details=f"state: {stream.state.value}",
                field="streamId",
                stream_id=name,
            )
        self._cancel(session, stream, now)
        return {"streamId": name}

    def _on_heartbeat(self, session: AiSession, args: list[object], now: Millis) -> Answer:
        ack = events.HeartbeatAck(
            active_streams=session.active_streams(),
            queue_size=session.waiting(),
            streams={name: stream.handed_seq for name, stream in session.streams.items()},
        )
        session.send(ack, now)
        return {}

    # -- ai:reconnect ------------------------------------------------------------------------------

    def _on_reconnect(self, session: AiSession, args: list[object], now: Millis) -> Answer:
        request = messages.parse_reconnect(args)
        public = self._capabilities.check(request.previous_client_id)
        if public is None and is_client_id(request.previous_client_id):
            self._count_guess(session, now)
        previous = self._holder(public, now)
        if previous is None or (previous.public != public and previous.arrived > session.arrived):
            # The second: a request that was under way for so long that its client has come back
            # over another connection, and is there. A retry comes over a newer one.
            raise Refusal(Code.RECONNECT_FAILED)
        cursors = request.streams or {}
        # What came over this very connection it has, but for what it names.
        moved: list[str] = []
        replaced: list[str] = []
        if previous is not session:
            if previous.socket is not None:
                previous.allowance.take_takeover(now)
            if previous.public == public:  # its client knows it: the older ones are burnt
                self._confirm_transfer(previous)
            moved, replaced = self._transfer(previous, session, now)
        elif public != session.public:
            moved = list(session.streams)
        gaps = [
            stream
            for name, stream in session.streams.items()
            if (name in moved or name in cursors)
            and not self._rewind(session, stream, cursors.get(name), now)
        ]
        for stream in gaps:
            self._say_gap(session, stream, now)
        self._counters.resumes += 1
        success = events.ReconnectSuccess(
            previous_client_id=request.previous_client_id,
            new_client_id=self._capabilities.client_id(session.public),
            streams=[
                events.ResumedStream(
                    stream.name,
                    stream.state.value,
                    stream.next_seq,
                    stream.log.first_seq,
                    stream.epoch,
                )
                for stream in session.streams.values()
            ],
            replaced=replaced or None,
        )
        # Of this connection alone: over another one, the streams go on elsewhere.
        session.send(success, now, keep=False)
        return {"newClientId": success.new_client_id}

    @staticmethod
    def _count_guess(session: AiSession, now: Millis) -> None:
        """The client has shown an id that was never issued here."""
        assert session.socket is not None
        assert session.socket.carrier is not None
        session.socket.carrier.guesser.was_wrong(now)

    def _holder(self, public: str | None, now: Millis) -> AiSession | None:
        """Return who has the streams of a clientId now; None: it is over, or never was one.

        A deadline that has passed counts, handled or not: what came late must not win.
        """
        session = None if public is None else self._by_public.get(public)
        while session is not None and session.successor is not None:
            # It was taken over before, but the answer was lost.
            burnt = self._timers.is_due(Timer.TRANSFER, session.successor.public, now)
            session = None if burnt else session.successor
        if session is None or self._timers.is_due(Timer.SESSION_FORGET, session.public, now):
            return None
        return session

    def _rewind(
        self, session: AiSession, stream: Stream, cursor: Cursor | None, now: Millis
    ) -> bool:
        """Go back to what the client has. Return False if more is needed than is kept."""
        seq = None
        if cursor is not None and cursor.epoch in (None, stream.epoch):
            seq = cursor.seq
        if seq is not None and seq > stream.known_seq:  # of an earlier stream of that name
            seq = None
        whole = stream.rewind(seq)
        self._count(stream, now)
        session.take_turn(stream)
        return whole

    def _say_gap(self, session: AiSession, stream: Stream, now: Millis) -> None:
        """The client needs text that is not kept any more."""
        code = Code.RESUME_GAP
        self._counters.error(code.text)
        gap = events.Error(
            error=code.sentence,
            code=code.text,
            details=f"the text is kept from seq {stream.log.first_seq} on",
            retryable=code.retryable,
            stream_id=stream.name,
            first_seq=stream.log.first_seq,
        )
        session.send(gap, now)

    def _transfer(
        self, previous: AiSession, session: AiSession, now: Millis
    ) -> tuple[list[str], list[str]]:
        """Move all streams to `session` and fence the old connection.

        Returns:
            The names of the streams that moved, and of those that a newer one replaced.
        """
        self._confirm_transfer(session)  # of another session before
        moved: list[str] = []
        replaced: list[str] = []
        for name, stream in list(previous.streams.items()):
            rival = session.streams.get(name)
            if rival is not None:
                replaced.append(name)
                loser = stream if stream.id < rival.id else rival
                owner = previous if loser is stream else session
                if loser.running:
                    self._cancel(owner, loser, now)
                owner.supersede(loser)
                self._forget_stream(owner, loser, now)
                if loser is stream:
                    continue
            moved.append(name)
            previous.drop(stream)
            session.adopt(stream)
            self._streams[stream.id] = (session, stream)
            if name in previous.paused:
                session.paused[name] = stream
        previous.paused.clear()
        self._by_pid.pop(previous.pid_key, None)
        previous.retire()
        previous.successor = session
        session.previous = previous
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

    def _confirm_transfer(self, session: AiSession) -> None:
        """The client knows its new clientId: the old ones are burnt."""
        self._timers.clear(Timer.TRANSFER, session.public)
        previous, session.previous = session.previous, None
        while previous is not None:
            del self._by_public[previous.public]
            self._timers.clear(Timer.TRANSFER, previous.public)
            previous = previous.previous

    def _forget_session(self, session: AiSession, now: Millis) -> None:
        """The grace period is over: its streams are cancelled at the model."""
        self._absent.remove(session)
        self._timers.clear(Timer.SESSION_FORGET, session.public)
        self._confirm_transfer(session)
        for stream in list(session.streams.values()):
            if stream.running:
                self._cancel(session, stream, now)
            self._forget_stream(session, stream, now)
        del self._by_public[session.public]
        self._by_pid.pop(session.pid_key, None)

    # -- shutdown ----------------------------------------------------------------------------------

    def shut_down(self, now: Millis) -> None:
        """Take no more streams; let those that run finish in the configured time."""
        self._shutdown_at = Millis(now + self._config.shutdown_timeout)
        code = Code.SERVER_SHUTTING_DOWN
        goodbye = events.Error(code.sentence, code.text, "reconnect in a moment", code.retryable)
        for session in list(self._by_socket.values()):  # a full one is dropped by what it is sent
            session.send(goodbye, now)
        self._timers.set(Timer.SHUTDOWN, 0, now)

    def _shutdown_step(self, now: Millis) -> bool:
        """Return True when all streams have ended and their clients have all of them.

        Streams that are out of time end with an error, and their clients get one step to read it.
        """
        assert self._shutdown_at is not None
        running = [(owner, stream) for owner, stream in self._streams.values() if stream.running]
        if now >= self._shutdown_at:
            for session, stream in running:
                self.upstreams.cancel(stream.id)
                self._fail(session, stream, Code.SERVER_SHUTTING_DOWN, "out of time", now)
            if not running:
                return True
        elif not running and not any(session.is_owed() for session in self._by_socket.values()):
            return True
        self._timers.set(Timer.SHUTDOWN, 0, now + _SHUTDOWN_STEP)
        return False

    # -- timers and statistics ---------------------------------------------------------------------

    def handle_timer(self, timer: Timer, key: int | str, now: Millis) -> bool:
        """Take a timer of this layer that is due. Return True when a shutdown is complete."""
        match timer:
            case Timer.UPSTREAM_PROBE:
                self.upstreams.probe(now)
            case Timer.UPSTREAM_SILENCE:
                self.upstreams.silence(StreamId(int(key)), now)
            case Timer.UPSTREAM_LINGER:
                self.upstreams.cancel(StreamId(int(key)))
            case Timer.STREAM:
                session, stream = self._streams[StreamId(int(key))]
                self.upstreams.cancel(stream.id)
                limit = f"limit: {self._config.stream_timeout} ms"
                self._fail(session, stream, Code.STREAM_TIMEOUT, limit, now)
            case Timer.STREAM_FORGET:
                self._forget_ended(*self._streams[StreamId(int(key))], now)
            case Timer.SESSION_FORGET:
                self._forget_session(self._by_public[str(key)], now)
            case Timer.TRANSFER:
                self._confirm_transfer(self._by_public[str(key)])
            case Timer.PACE:
                session, stream = self._streams[StreamId(int(key))]
                self._pressure.offer(session, stream, now)
            case Timer.PRESSURE:
                self._pressure.tell(self._by_public[str(key)], now)
            case Timer.MEMORY:
                if self._memory.is_starved:
                    self._starve(now)
            case Timer.SHUTDOWN:
                return self._shutdown_step(now)
            case _:
                raise AssertionError(timer)  # a timer of another layer
        return False

    def stats(self, now: Millis) -> Stats:
        """Return a snapshot of the statistics."""
        counters = self._counters
        sessions = list(self._by_public.values())
        ended = counters.ended
        return Stats(
            total_streams=counters.streams,
            total_tokens_streamed=counters.tokens,
            total_sessions=len(self._by_socket),
            active_sessions=sum(session.active_streams() > 0 for session in sessions),
            total_active_streams=sum(session.active_streams() for session in sessions),
            average_stream_duration=round(counters.ended_ms / ended, 1) if ended else 0.0,
            backpressure_events=counters.backpressure_events,
            merged_events=counters.merged_events
            + sum(stream.merged_events for _, stream in self._streams.values()),
            paused_ms=counters.paused_ms
            + sum(stream.paused_for(now) for _, stream in self._streams.values()),
            skipped_tokens=counters.skipped_tokens,
            detaches=counters.detaches,
            resumes=counters.resumes,
            cancels=counters.cancels,
            errors=dict(counters.errors),
            bytes_held=self._memory.held + sum(session.bytes_held() for session in sessions),
            memory_bound=self._config.memory_bound(),
            evictions=counters.evictions,
        )
