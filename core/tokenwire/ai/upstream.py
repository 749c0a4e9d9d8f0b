"""The model's side of the streams: what is asked, what comes back, how long it may take.

Rules of this file: an answer is read as Ollama's NDJSON; every way in which it can end is told to
the listener exactly once. A stream that is over has no upstream, at most a response that lingers.
The timers for silence stand still while the model is paused by us.
"""

from contextlib import suppress
from typing import Literal, Protocol

from tokenwire.ai import ollama
from tokenwire.ai.answers import Line
from tokenwire.ai.errors import Code
from tokenwire.config import Config
from tokenwire.errors import RemoteProtocolError
from tokenwire.outputs import (
    CancelUpstream,
    Notice,
    PauseUpstream,
    ProbeUpstream,
    ResumeUpstream,
    StartUpstream,
)
from tokenwire.queue import Outputs
from tokenwire.timers import Timer, Timers
from tokenwire.types import Millis, StreamId, UpstreamRequest
from tokenwire.wire.ndjson import LineSplitter

Health = Literal["unknown", "ok", "down"]
"""What the last look at the model server found."""

_HELD_STEP = 1_024  # bytes: a line that grows less is not told of
_LINGER = 1_000  # for the last chunk of a response after its `done: true`


class Listener(Protocol):
    """Who wants what the model says (`streams.py`)."""

    def upstream_lines(self, stream: StreamId, lines: list[Line], now: Millis) -> None:
        """Lines of text, in order. The last may be the end (`done`)."""
        ...

    def upstream_held(self, stream: StreamId, size: int, now: Millis) -> None:
        """So many bytes of a line that is not whole are held."""
        ...

    def upstream_ended(self, stream: StreamId, code: Code, details: str, now: Millis) -> None:
        """The answer will not be complete."""
        ...


class _Upstream:
    """The answer to one request."""

    __slots__ = ("active_at", "held", "over", "paused_at", "splitter", "started")

    def __init__(self, max_line: int, now: Millis) -> None:
        self.splitter = LineSplitter(max_line)
        self.active_at = now
        self.held = 0  # of a line that is not whole, as told
        self.started = False  # a first line has come
        self.paused_at: Millis | None = None
        self.over = False  # the stream has ended; the response has not


class Upstreams:
    """All answers that are under way."""

    def __init__(
        self, config: Config, outputs: Outputs, timers: Timers, listener: Listener
    ) -> None:
        self._config = config
        self._outputs = outputs
        self._timers = timers
        self._listener = listener
        self._upstreams: dict[StreamId, _Upstream] = {}
        self.models: frozenset[str] | None = None
        """What the model server offers; None: not known."""
        self.status: Health = "unknown"
        timers.set(Timer.UPSTREAM_PROBE, 0, 0)

    def __len__(self) -> int:
        return len(self._upstreams)

    def start(self, stream: StreamId, request: UpstreamRequest, now: Millis) -> None:
        upstream = self._upstreams[stream] = _Upstream(self._config.upstream_line_bytes, now)
        self._watch(stream, upstream)
        self._outputs.put(StartUpstream(stream, request))

    # -- what the runtime brings -------------------------------------------------------------------

    def receive_status(self, stream: StreamId, status: int, now: Millis) -> None:
        """Take the status. An answer that is not 200 ends here: nobody reads the rest of it."""
        upstream = self._upstreams.get(stream)
        if upstream is not None and not upstream.over and status != 200:
            details = f"the model server answered with status {status}"
            self._fail(stream, ollama.status_code(status), details, now)

    def receive(self, stream: StreamId, data: bytes, now: Millis) -> None:
        upstream = self._upstreams.get(stream)
        if upstream is None or upstream.over:
            return
        upstream.active_at = now
        try:
            lines = upstream.splitter.feed(data)
        except RemoteProtocolError as error:
            self._fail(stream, Code.UPSTREAM_ERROR, str(error), now)
            return
        size = upstream.splitter.size
        if size < upstream.held or size >= upstream.held + _HELD_STEP:
            upstream.held = size
            self._listener.upstream_held(stream, size, now)
            if stream not in self._upstreams:  # the listener had no room for it
                return
        self._take(stream, upstream, lines, Code.UPSTREAM_ERROR, now)

    def _take(
        self,
        stream: StreamId,
        upstream: _Upstream,
        data: list[bytes],
        unreadable: Code,
        now: Millis,
    ) -> None:
        lines: list[Line] = []
        failure: tuple[Code, str] | None = None
        for item in data:
            try:
                line = ollama.decode_line(item)
            except RemoteProtocolError as error:
                failure = (unreadable, str(error))
                break
            if line.error is not None:
                failure = (Code.UPSTREAM_ERROR, "the model failed while it was running")
                break
            lines.append(line)
            if line.done:
                upstream.over = True  # what follows an end is ignored
                self._timers.clear(Timer.UPSTREAM_SILENCE, stream)
                self._timers.set(Timer.UPSTREAM_LINGER, stream, now + _LINGER)
                break
        if lines:
            if not upstream.started:
                upstream.started = True
                if not upstream.over and upstream.paused_at is None:
                    self._watch(stream, upstream)
            self._listener.upstream_lines(stream, lines, now)
        if failure is not None:
            self._fail(stream, *failure, now)

    def receive_eof(self, stream: StreamId, now: Millis) -> None:
        upstream = self._upstreams.get(stream)
        if upstream is None:
            return
        rest = upstream.splitter.end()
        if rest and not upstream.over:  # an answer of one object has no newline; or a line was cut
            self._take(stream, upstream, [rest], Code.UPSTREAM_TRUNCATED, now)
            if stream not in self._upstreams:
                return
        self._forget(stream)
        if not upstream.over:
            details = "the end of the stream is missing"
            self._listener.upstream_ended(stream, Code.UPSTREAM_TRUNCATED, details, now)

    def receive_failure(self, stream: StreamId, *, reached: bool, now: Millis) -> None:
        upstream = self._upstreams.get(stream)
        if upstream is None:
            return
        self._forget(stream)
        if upstream.over:
            return
        if reached:
            code, details = Code.UPSTREAM_TRUNCATED, "the connection to the model server broke"
        else:
            code, details = Code.UPSTREAM_UNAVAILABLE, "no connection to the model server"
            self._found("down", None)
        self._listener.upstream_ended(stream, code, details, now)

    def _fail(self, stream: StreamId, code: Code, details: str, now: Millis) -> None:
        if stream in self._upstreams:
            self.cancel(stream)
            self._listener.upstream_ended(stream, code, details, now)

    # -- what the streams want ---------------------------------------------------------------------

    def pause(self, stream: StreamId, now: Millis) -> None:
        upstream = self._upstreams.get(stream)
        if upstream is not None and upstream.paused_at is None and not upstream.over:
            upstream.paused_at = now
            self._timers.clear(Timer.UPSTREAM_SILENCE, stream)
            self._outputs.put(PauseUpstream(stream))

    def resume(self, stream: StreamId, now: Millis) -> None:
        upstream = self._upstreams.get(stream)
        if upstream is not None and upstream.paused_at is not None:
            silent = max(0, upstream.paused_at - upstream.active_at)  # before the pause
            upstream.active_at = Millis(now - silent)
            upstream.paused_at = None
            if not upstream.over:
                self._watch(stream, upstream)
            self._outputs.put(ResumeUpstream(stream))

    def cancel(self, stream: StreamId) -> None:
        """Close the model's connection, in whatever state it is."""
        if stream in self._upstreams:
            self._forget(stream)
            self._outputs.put(CancelUpstream(stream))

    def _forget(self, stream: StreamId) -> None:
        del self._upstreams[stream]
        self._timers.clear(Timer.UPSTREAM_SILENCE, stream)
        self._timers.clear(Timer.UPSTREAM_LINGER, stream)

    def silence(self, stream: StreamId, now: Millis) -> None:
        """The silence timer is due. It is not moved for each token: it looks when one came."""
        upstream = self._upstreams[stream]
        limit = self._silence_limit(upstream)
        if upstream.active_at + limit > now:
            self._watch(stream, upstream)
            return
        code = Code.IDLE_TIMEOUT if upstream.started else Code.FIRST_TOKEN_TIMEOUT
        self._fail(stream, code, f"nothing came for {limit} ms", now)

    def _watch(self, stream: StreamId, upstream: _Upstream) -> None:
        at = upstream.active_at + self._silence_limit(upstream)
        self._timers.set(Timer.UPSTREAM_SILENCE, stream, at)

    def _silence_limit(self, upstream: _Upstream) -> int:
        config = self._config
        return config.idle_timeout if upstream.started else config.first_token_timeout

    # -- what the model server offers --------------------------------------------------------------

    def probe(self, now: Millis) -> None:
        """Look what the model server offers; again after a while, answered or not."""
        self._timers.set(Timer.UPSTREAM_PROBE, 0, now + self._config.upstream_probe_interval)
        self._outputs.put(ProbeUpstream(ollama.LIST_MODELS))

    def probed(self, status: int | None, body: bytes, now: Millis) -> None:
        """Take the answer to a ProbeUpstream; None: there was none."""
        models = None
        if status == 200:
            with suppress(RemoteProtocolError):
                models = ollama.decode_models(body)
        self._found("down" if models is None else "ok", models)

    def _found(self, status: Health, models: frozenset[str] | None) -> None:
        before, self.status, self.models = self.status, status, models
        if status == before:
            return
        if models is None:
            self._outputs.put(Notice("warning", "upstream_down"))
        else:
            names = ", ".join(sorted(models))
            self._outputs.put(Notice("info", "upstream_ok", (("models", names),)))
