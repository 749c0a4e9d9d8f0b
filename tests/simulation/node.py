"""A running server: what the core wants is carried out, and looked at after each step.

Rules of this file: outputs are carried out in their order; the core's own deadlines are met to the
millisecond. What is checked here holds whatever the clients do.
"""

from collections.abc import Callable

import msgspec
from simulation.links import Pipe, Quality
from simulation.loop import Loop, Violation
from simulation.models import Model, Script
from simulation.settings import CONFIG, SESSIONS_HELD, most_held
from tokenwire.outputs import (
    Abort,
    CancelUpstream,
    Notice,
    PauseReading,
    PauseUpstream,
    ProbeUpstream,
    ResumeReading,
    ResumeUpstream,
    StartUpstream,
    Stopped,
    WantWrite,
)
from tokenwire.server import Server
from tokenwire.testing import SeededIds
from tokenwire.types import ConnId, StreamId

TAGS = msgspec.json.encode({"models": [{"name": "codellama"}]})


class Node:
    """One server, its sockets and its models."""

    def __init__(self, loop: Loop, seed: int, scripts: dict[str, Script]) -> None:
        self.loop = loop
        self.server = Server(CONFIG, ids=SeededIds(seed))
        self.models: dict[StreamId, Model] = {}
        self.paused: dict[StreamId, Model] = {}
        self.on_said: Callable[[Model], None] = lambda model: None
        """Is told when a model has said something that was taken."""
        self.stopping = False
        self.stopped = False
        self._scripts = scripts
        self._by_key: dict[str, list[Model]] = {}
        self._most_held = SESSIONS_HELD
        self._pipes: dict[ConnId, Pipe] = {}

    def connect(self, quality: Quality, address: str) -> Pipe:
        pipe = Pipe(self, quality, address)
        self._pipes[pipe.conn] = pipe
        self.act(lambda: None)
        return pipe

    def pipes(self) -> list[Pipe]:
        """Return the sockets that an end holds open."""
        self._pipes = {
            conn: pipe for conn, pipe in self._pipes.items() if pipe.server_open or pipe.client_open
        }
        return list(self._pipes.values())

    def models_of(self, key: str) -> list[Model]:
        return self._by_key.get(key, [])

    # -- steps -------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A deadline of the core's has come."""
        now = self.loop.now
        deadline = self.server.next_timeout()
        assert deadline is not None
        self.loop.note("core", deadline.reason)
        self.act(lambda: self.server.handle_timeout(now))
        following = self.server.next_timeout()
        if following is not None and following.at <= now:
            raise Violation(f"a timer in the past after handle_timeout: {following.reason}")

    def act(self, do: Callable[[], None]) -> None:
        do()
        self._pump()

    def upstream(self, model: Model, what: str, data: bytes = b"", status: int = 200) -> None:
        """Tell the server what a model does."""
        server, stream, now = self.server, model.stream, self.loop.now
        tokens = server.stats().total_tokens_streamed
        was_over = model.cancelled
        match what:
            case "status":
                self.act(lambda: server.upstream_answered(stream, status, now))
            case "data":
                self.act(lambda: server.receive_upstream(stream, data, now))
            case "eof":
                self.act(lambda: server.upstream_eof(stream, now))
            case _:
                reached = what == "failed"
                self.act(lambda: server.upstream_failed(stream, now, reached=reached))
        stats = server.stats()
        if was_over and stats.total_tokens_streamed != tokens:
            raise Violation(f"a token is taken after the cancel: {model.script.key}")
        if what == "data" and not was_over:
            self.on_said(model)
        if stats.bytes_held > self._most_held:
            raise Violation(f"{stats.bytes_held} bytes are held, more than {self._most_held}")

    # -- what the core wants -----------------------------------------------------------------------

    def _pump(self) -> None:
        server = self.server
        while (output := server.poll()) is not None:
            match output:
                case WantWrite(conn):
                    self._pipes[conn].flush()
                case PauseReading(conn):
                    self._pipes[conn].up.held = True
                case ResumeReading(conn):
                    self._pipes[conn].up.release()
                case Abort(conn, reason):
                    self.loop.note(f"pipe {conn}", f"aborted: {reason}")
                    if self._pipes[conn].server_open:
                        self._pipes[conn].abort()
                case StartUpstream(stream, request):
                    self._start(stream, request.body)
                case PauseUpstream(stream):
                    self._note(stream, "pause")
                    self.models[stream].pause()
                    self.paused[stream] = self.models[stream]
                case ResumeUpstream(stream):
                    self._note(stream, "resume")
                    self.models[stream].resume()
                    del self.paused[stream]
                case CancelUpstream(stream):
                    self._note(stream, "cancel")
                    self.models[stream].cancel()
                    self.paused.pop(stream, None)
                case ProbeUpstream():
                    server.upstream_probed(200, TAGS, self.loop.now)
                case Notice(_, event, fields):
                    self.loop.note("core", f"{event} {fields}")
                case Stopped():
                    self.stopped = True
                case _:
                    raise Violation(f"nobody asked for {output}")

    def _start(self, stream: StreamId, body: bytes) -> None:
        messages = msgspec.json.decode(body)["messages"]
        script = self._scripts[messages[-1]["content"]]
        model = self.models[stream] = Model(self, stream, script)
        self._by_key.setdefault(script.key, []).append(model)
        self._most_held += most_held(script.size)
        self._note(stream, f"start {script.key}, {script.kind.value}, {len(script.tokens)} tokens")

    def _note(self, stream: StreamId, what: str) -> None:
        self.loop.note(f"model {stream}", what)
