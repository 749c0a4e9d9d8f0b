"""The AI protocol's namespace: what each event does.

Rules of this file: every client event is answered by an event (and by its ack, if it asked for
one); a refusal is an `ai:error` and changes nothing. Nothing a client names (a streamId) is ever a
key outside its own session. Who a client is, is decided in `sessions.py`; how a stream starts and
ends, in `streams.py`.
"""

from collections.abc import Callable

from tokenwire.ai import events, messages, ollama, routing
from tokenwire.ai.capability import is_client_id
from tokenwire.ai.counters import Counters
from tokenwire.ai.errors import Code, Refusal
from tokenwire.ai.messages import Cursor, StreamRequest
from tokenwire.ai.session import AiSession
from tokenwire.ai.sessions import Sessions
from tokenwire.ai.stats import Stats
from tokenwire.ai.stream import Stream
from tokenwire.ai.streams import Streams
from tokenwire.buckets import Buckets, per_minute
from tokenwire.config import Config
from tokenwire.engineio.session import SLOW_CONSUMER
from tokenwire.queue import Outputs
from tokenwire.socketio.binary import encode_body
from tokenwire.socketio.socket import Recovered, Socket
from tokenwire.timers import Timer, Timers
from tokenwire.types import IdSource, Millis, StreamId
from tokenwire.wire import ids

_STREAM_NAME_BYTES = 9
_SHUTDOWN_STEP = 50  # how often a shutdown looks whether all has been said

Answer = dict[str, object]


class AiService:
    """The namespace of one server."""

    def __init__(
        self, config: Config, outputs: Outputs, timers: Timers, id_source: IdSource
    ) -> None:
        self._config = config
        self._timers = timers
        self._ids = id_source
        self._counters = counters = Counters()
        self._streams = Streams(config, outputs, timers, id_source, counters, self._evict)
        self._sessions = Sessions(config, outputs, timers, id_source, counters, self._streams)
        self.upstreams = self._streams.upstreams
        self._joins = Buckets(per_minute(config.joins_per_minute), config.max_sessions)
        """By the connection: each session begins with new limits."""
        self._shutdown_at: Millis | None = None
        self._handlers: dict[str, Callable[[AiSession, list[object], Millis], Answer]] = {
            "ai:stream": self._on_stream,
            "ai:cancel": self._on_cancel,
            "ai:heartbeat": self._on_heartbeat,
            "ai:reconnect": self._on_reconnect,
        }
        self._allowed_models = frozenset(map(ollama.canonical_name, config.allowed_models))

    def _evict(self, now: Millis) -> None:
        """Memory is short."""
        self._sessions.evict(now)

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
        session = self._sessions.of_pid(pid)
        if session is None or self._shutdown_at is not None:
            return None
        assert isinstance(auth, dict)
        offset = session.parse(auth.get("offset"))
        if offset is None or self._sessions.is_over(session, now):
            return None
        old = session.socket
        if old is not None and old.carrier is not None:  # nobody knows yet that it is dead
            try:
                session.allowance.take_takeover(now)
            except Refusal:
                return None
            carrier = old.carrier
            carrier.release(old)
            self._sessions.lose(session, old, now)
            carrier.abort("replaced", now)
        socket = Socket(None, session.socket_id, name, self)
        socket.pid_key = session.pid_key
        return Recovered(socket, str(pid), [])

    def admit(self, socket: Socket, auth: object) -> str | None:
        if not self._offers_recovery(socket, auth):
            return None
        return self._sessions.give_pid(socket)

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
        session = self._sessions.open(socket)
        session.send(self._hello(session, recovered=False), now)

    def _recover(self, socket: Socket, auth: object, now: Millis) -> None:
        """A client is back by itself: what it lacks is made again."""
        session = self._sessions.come_back(socket)
        assert isinstance(auth, dict)
        offset = session.parse(auth.get("offset"))
        assert offset is not None
        self._counters.resumes += 1
        hello = self._hello(session, recovered=True)
        for stream in session.recover(offset, socket, hello, now):
            self._say_gap(session, stream, now)

    def _hello(self, session: AiSession, *, recovered: bool) -> events.Connected:
        return events.Connected(
            client_id=self._sessions.client_id(session),
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
        session = self._sessions.by_socket[socket.id]
        if name != "ai:reconnect":
            self._sessions.confirm(session)
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

    def received(self, socket: Socket) -> None:
        session = self._sessions.by_socket[socket.id]
        if session.previous is not None and socket.has_received(session.taken_over_at):
            self._sessions.confirm(session)  # the answer has come

    def disconnected(self, socket: Socket, reason: str, now: Millis, *, may_return: bool) -> None:
        session = self._sessions.by_socket[socket.id]
        if session.socket is socket:  # else it was fenced: the session has moved on
            self._counters.detaches += reason == SLOW_CONSUMER
            self._sessions.lose(session, socket, now)
            self._sessions.evict(now)
        else:
            del self._sessions.by_socket[socket.id]

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
        if self._streams.memory.is_scarce:
            self._streams.make_room(now, running=False)
            if self._streams.memory.is_scarce:
                raise Refusal(Code.NODE_OVERLOADED)
        self._check_model(request.model)
        route = self._route(request)
        session.allowance.take_start(now)
        unread: list[bytes] = []
        if stream is not None:  # what its client was not told yet goes before the new start
            unread = stream.drain()
            session.supersede(stream)
            self._streams.forget(session, stream, now)
        self._streams.bound_ended(session, now)
        stream = self._streams.start(session, name, request, route, now)
        stream.precede(unread)
        self._streams.count(stream, now)
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
        self._streams.cancel(session, stream, now)
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
        public = self._sessions.capabilities.check(request.previous_client_id)
        if public is None and is_client_id(request.previous_client_id):
            self._count_guess(session, now)
        previous = self._sessions.holder(public, now)
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
                self._sessions.confirm(previous)
            self._streams.bound_ended(session, now)  # of sessions that it took over before
            moved, replaced = self._sessions.take_over(previous, session, now)
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
            new_client_id=self._sessions.client_id(session),
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
        self._streams.count(stream, now)
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

    # -- shutdown ----------------------------------------------------------------------------------

    def shut_down(self, now: Millis) -> None:
        """Take no more streams; let those that run finish in the configured time."""
        self._shutdown_at = Millis(now + self._config.shutdown_timeout)
        code = Code.SERVER_SHUTTING_DOWN
        goodbye = events.Error(code.sentence, code.text, "reconnect in a moment", code.retryable)
        for session in list(
            self._sessions.by_socket.values()
        ):  # a full one is dropped by what it is sent
            session.send(goodbye, now)
        self._timers.set(Timer.SHUTDOWN, 0, now)

    def _shutdown_step(self, now: Millis) -> bool:
        """Return True when all streams have ended and their clients have all of them.

        Streams that are out of time end with an error, and their clients get one step to read it.
        """
        assert self._shutdown_at is not None
        running = [(owner, stream) for owner, stream in self._streams if stream.running]
        if now >= self._shutdown_at:
            for session, stream in running:
                self.upstreams.cancel(stream.id)
                self._streams.fail(session, stream, Code.SERVER_SHUTTING_DOWN, "out of time", now)
            if not running:
                return True
        elif not running and not any(
            session.is_owed() for session in self._sessions.by_socket.values()
        ):
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
                session, stream = self._streams.of(key)
                self.upstreams.cancel(stream.id)
                limit = f"limit: {self._config.stream_timeout} ms"
                self._streams.fail(session, stream, Code.STREAM_TIMEOUT, limit, now)
            case Timer.STREAM_FORGET:
                self._streams.forget_ended(*self._streams.of(key), now)
            case Timer.SESSION_FORGET:
                self._sessions.forget(self._sessions.of(key), now)
            case Timer.TRANSFER:
                self._sessions.confirm(self._sessions.of(key))
            case Timer.PACE:
                session, stream = self._streams.of(key)
                self._streams.pressure.offer(session, stream, now)
            case Timer.PRESSURE:
                self._streams.pressure.tell(self._sessions.of(key), now)
            case Timer.MEMORY:
                self._streams.look_for_room(now)
            case Timer.SHUTDOWN:
                return self._shutdown_step(now)
            case _:
                raise AssertionError(timer)  # a timer of another layer
        return False

    def stats(self, now: Millis) -> Stats:
        """Return a snapshot of the statistics."""
        counters = self._counters
        sessions = list(self._sessions)
        ended = counters.ended
        return Stats(
            total_streams=counters.streams,
            total_tokens_streamed=counters.tokens,
            total_sessions=len(self._sessions.by_socket),
            active_sessions=sum(session.active_streams() > 0 for session in sessions),
            total_active_streams=sum(session.active_streams() for session in sessions),
            average_stream_duration=round(counters.ended_ms / ended, 1) if ended else 0.0,
            backpressure_events=counters.backpressure_events,
            merged_events=counters.merged_events
            + sum(stream.merged_events for _, stream in self._streams),
            paused_ms=counters.paused_ms
            + sum(stream.paused_for(now) for _, stream in self._streams),
            skipped_tokens=counters.skipped_tokens,
            detaches=counters.detaches,
            resumes=counters.resumes,
            cancels=counters.cancels,
            errors=dict(counters.errors),
            bytes_held=self._streams.memory.held
            + sum(session.bytes_held() for session in sessions),
            memory_bound=self._config.memory_bound(),
            evictions=counters.evictions,
        )
